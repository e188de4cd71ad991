-- SPDX-License-Identifier: MIT
-- Money is integer micro-USD. A call's reservation and its settlement are each one statement, and the CHECK
-- constraints of payment_keys make a wrong one fail instead of losing money.

CREATE TABLE payment_keys (
    owner            text        NOT NULL,
    nonce            bigint      NOT NULL,
    key_hash         text        NOT NULL CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    initial_balance  bigint      NOT NULL CHECK (initial_balance >= 0),
    spent            bigint      NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved         bigint      NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    open_calls       integer     NOT NULL DEFAULT 0 CHECK (open_calls >= 0),
    project_ids      text[]      NOT NULL DEFAULT '{}',
    max_per_call     bigint      NOT NULL DEFAULT 0 CHECK (max_per_call >= 0),
    is_grant         boolean     NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    last_used_at     timestamptz,
    deleted_at       timestamptz,
    PRIMARY KEY (owner, nonce),
    CHECK (spent + reserved <= initial_balance)
);

CREATE TABLE https_calls (
    call_id          uuid        PRIMARY KEY,
    owner            text        NOT NULL,
    nonce            bigint      NOT NULL,
    project_id       text        NOT NULL,
    project_uuid     text        NOT NULL,
    version_key      text,
    secrets_ref      text,
    status           text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'completed', 'failed')),
    input            bytea       NOT NULL,
    output           bytea,
    error            text,
    error_category   text,
    instructions     bigint,
    time_ms          bigint,
    compute_limit    bigint      NOT NULL,
    attached_deposit bigint      NOT NULL,
    reserved         bigint      NOT NULL CHECK (reserved = compute_limit + attached_deposit),
    compute_cost     bigint,
    refund           bigint,
    charged          bigint CHECK (charged IS NULL OR charged <= reserved),
    attested         boolean     NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    completed_at     timestamptz,
    FOREIGN KEY (owner, nonce) REFERENCES payment_keys (owner, nonce)
);
CREATE INDEX https_calls_by_key ON https_calls (owner, nonce, created_at);

CREATE TABLE jobs (
    job_id                uuid        PRIMARY KEY,
    seq                   bigint      GENERATED ALWAYS AS IDENTITY,
    kind                  text        NOT NULL CHECK (kind IN ('https', 'near')),
    state                 text        NOT NULL DEFAULT 'queued'
                                      CHECK (state IN ('queued', 'claimed', 'completed', 'failed')),
    attempt               integer     NOT NULL DEFAULT 0,
    max_instructions      bigint      NOT NULL,
    max_memory_mb         bigint      NOT NULL,
    max_execution_seconds bigint      NOT NULL,
    call_id               uuid        UNIQUE REFERENCES https_calls (call_id),
    contract_id           text,
    request_id            bigint,
    data_id               bytea,
    block_height          bigint,
    request_data          text,
    worker_id             text,
    token_hash            text,
    worker_public_key     text,
    session_id            uuid,
    lease_until           timestamptz,
    success               boolean,
    output                bytea,
    error                 text,
    error_category        text,
    instructions          bigint,
    time_ms               bigint,
    refund_usd            bigint,
    resolve_tx_hash       text,
    created_at            timestamptz NOT NULL DEFAULT now(),
    claimed_at            timestamptz,
    finished_at           timestamptz,
    UNIQUE (contract_id, request_id, data_id),
    CHECK ((kind = 'https') = (call_id IS NOT NULL)),
    CHECK ((kind = 'near') = (request_id IS NOT NULL))
);
CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE state = 'claimed';
CREATE INDEX jobs_by_seq ON jobs (seq);

CREATE TABLE project_owner_earnings (
    project_owner text        PRIMARY KEY,
    balance       bigint      NOT NULL CHECK (balance >= 0),
    total_earned  bigint      NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE earnings_history (
    id                bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_owner     text        NOT NULL,
    project_id        text        NOT NULL,
    attached_usd      bigint      NOT NULL,
    refund_usd        bigint      NOT NULL,
    amount            bigint      NOT NULL CHECK (amount = attached_usd - refund_usd),
    source            text        NOT NULL CHECK (source IN ('https', 'blockchain')),
    call_id           uuid        UNIQUE,
    created_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX earnings_history_by_owner ON earnings_history (project_owner, id);

CREATE TABLE worker_auth_tokens (
    token_hash  text        PRIMARY KEY CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    worker_name text        NOT NULL,
    is_active   boolean     NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tee_challenges (
    challenge  text        PRIMARY KEY,
    token_hash text        NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE worker_tee_sessions (
    session_id        uuid        PRIMARY KEY,
    token_hash        text        NOT NULL REFERENCES worker_auth_tokens (token_hash),
    worker_public_key text        NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    expires_at        timestamptz NOT NULL,
    ended_at          timestamptz,
    end_reason        text
);

CREATE TABLE worker_status (
    worker_id         text        PRIMARY KEY,
    worker_name       text        NOT NULL,
    token_hash        text        NOT NULL,
    worker_public_key text        NOT NULL,
    status            text        NOT NULL,
    jobs_completed    bigint      NOT NULL DEFAULT 0,
    jobs_failed       bigint      NOT NULL DEFAULT 0,
    last_heartbeat_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE wasm_files (
    sha256      text        PRIMARY KEY,
    size        bigint      NOT NULL,
    uploader    text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE attestation_batches (
    batch_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     bytea       NOT NULL UNIQUE,
    tree_size  integer     NOT NULL,
    root       bytea       NOT NULL,
    quote      bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE task_attestations (
    job_id           uuid        PRIMARY KEY REFERENCES jobs (job_id),
    batch_id         bigint      NOT NULL REFERENCES attestation_batches (batch_id),
    record           text        NOT NULL,
    leaf_hash        bytea       NOT NULL,
    leaf_index       integer     NOT NULL,
    inclusion_proof  bytea       NOT NULL,
    call_id          uuid,
    contract_id      text,
    request_id       bigint,
    transaction_hash text,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX task_attestations_by_call ON task_attestations (call_id) WHERE call_id IS NOT NULL;
CREATE INDEX task_attestations_by_request ON task_attestations (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX task_attestations_by_tx ON task_attestations (transaction_hash) WHERE transaction_hash IS NOT NULL;

-- The position of the event stream moves in the transaction that inserts a block's jobs, so no event is lost or
-- taken twice (R48).
CREATE TABLE event_cursors (
    stream     text        PRIMARY KEY,
    cursor     text        NOT NULL,
    height     bigint      NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
