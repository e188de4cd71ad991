// SPDX-License-Identifier: MIT
//! A guest that breaks one limit at a time. Standard input says which: `{"do":"loop"}`.
//! A command that ends well answers with the command's JSON, so that a caller sees what ran.

use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MIB: usize = 1 << 20;

#[derive(Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    /// Spins without end.
    Loop,
    /// Takes memory until there is none.
    Alloc,
    /// Writes without end.
    Flood,
    /// Waits, then answers.
    Sleep { ms: u64 },
    /// Executes `unreachable`.
    Trap,
    /// Ends with an exit code, after an answer.
    Exit { code: u8 },
    /// Answers.
    Nothing,
}

fn main() -> ExitCode {
    let command: Command = match serde_json::from_reader(io::stdin().lock()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("the input is no command: {error}");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Loop => spin(),
        Command::Alloc => allocate(),
        Command::Flood => return flood(),
        Command::Sleep { ms } => thread::sleep(Duration::from_millis(ms)),
        Command::Trap => trap(),
        Command::Exit { .. } | Command::Nothing => {}
    }
    if let Err(error) = answer(&command) {
        eprintln!("the answer could not be written: {error}");
        return ExitCode::from(3);
    }
    match command {
        Command::Exit { code } => ExitCode::from(code),
        _ => ExitCode::SUCCESS,
    }
}

fn spin() -> ! {
    let mut rounds = 0u64;
    loop {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

fn allocate() -> ! {
    let mut blocks = Vec::new();
    loop {
        // written to, so that the pages are really taken
        blocks.push(black_box(vec![0xa5_u8; MIB]));
    }
}

fn flood() -> ExitCode {
    let line = [b'x'; 64 * 1024];
    let mut output = io::stdout().lock();
    loop {
        if let Err(error) = output.write_all(&line) {
            eprintln!("the flood was stopped: {error}");
            return ExitCode::from(4);
        }
    }
}

fn trap() -> ! {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort()
}

fn answer(command: &Command) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, command)?;
    output.flush()
}
