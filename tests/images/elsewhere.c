/* SPDX-License-Identifier: MIT
 *
 * Preloaded into every program of a build under test, after which its bytes must be the same.
 *
 * - uname(2) names another kernel;
 * - folders are read in the reverse order;
 * - libfaketime, preloaded beside it, finds its settings here, since mkosi empties the environment of what it starts;
 *   the clock itself is in /etc/faketimerc, since bash brings a getenv of its own;
 * - each program records what it sees: one line for a program, with its clock as it asks for it itself.
 *
 * KERNEL comes from the command line of the compiler.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* the first process of the sandbox keeps this folder in sight, whatever root a program is in */
#define RECORD "/proc/1/root/run/record/programs"

static const char *const SETTINGS[][2] = {
    /* stamps of files are the kernel's: shifting them in what a program reads would be no other clock */
    {"NO_FAKE_STAT", "1"},
    {"FAKETIME_DONT_FAKE_MONOTONIC", "1"},
    /* by this each process would share its clock with its children through /dev/shm, which not each root has */
    {"FAKETIME_DISABLE_SHM", "1"},
};

char *getenv(const char *name)
{
    static char *(*next)(const char *);
    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++)
        if (strcmp(name, SETTINGS[i][0]) == 0)
            return (char *)SETTINGS[i][1];
    if (!next)
        next = dlsym(RTLD_NEXT, "getenv");
    return next(name);
}

int uname(struct utsname *out)
{
    static int (*next)(struct utsname *);
    if (!next)
        next = dlsym(RTLD_NEXT, "uname");
    int result = next(out);
    if (result == 0) {
        snprintf(out->release, sizeof out->release, "%s", KERNEL);
        snprintf(out->version, sizeof out->version, "#1 SMP Sun Feb 29 23:59:59 UTC 2032");
    }
    return result;
}

/* --- folders, backwards: all entries are read at the first call, and given out from the last ------------------ */

struct folder {
    DIR *of;
    struct dirent64 **entries;
    size_t count, left;
    struct folder *next;
};
static struct folder *folders;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct folder *find(DIR *of)
{
    struct folder *found = folders;
    while (found && found->of != of)
        found = found->next;
    return found;
}

static void forget(DIR *of)
{
    pthread_mutex_lock(&lock);
    for (struct folder **at = &folders; *at; at = &(*at)->next)
        if ((*at)->of == of) {
            struct folder *gone = *at;
            *at = gone->next;
            for (size_t i = 0; i < gone->count; i++)
                free(gone->entries[i]);
            free(gone->entries);
            free(gone);
            break;
        }
    pthread_mutex_unlock(&lock);
}

static struct folder *fill(DIR *of)
{
    static struct dirent64 *(*next)(DIR *);
    if (!next)
        next = dlsym(RTLD_NEXT, "readdir64");
    struct folder *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    made->of = of;
    for (struct dirent64 *entry; (entry = next(of));) {
        made->entries = realloc(made->entries, (made->count + 1) * sizeof *made->entries);
        struct dirent64 *copy = made->entries ? malloc(sizeof *copy) : NULL;
        if (!copy)
            abort();
        memcpy(copy, entry, entry->d_reclen < sizeof *copy ? entry->d_reclen : sizeof *copy);
        made->entries[made->count++] = copy;
    }
    made->left = made->count;
    made->next = folders;
    return folders = made;
}

struct dirent64 *readdir64(DIR *of)
{
    int before = errno;
    pthread_mutex_lock(&lock);
    struct folder *from = find(of);
    if (!from)
        from = fill(of);
    struct dirent64 *entry = from->left ? from->entries[--from->left] : NULL;
    pthread_mutex_unlock(&lock);
    errno = before;
    return entry;
}

/* the same layout on x86-64 */
struct dirent *readdir(DIR *of)
{
    return (struct dirent *)readdir64(of);
}

int closedir(DIR *of)
{
    static int (*next)(DIR *);
    if (!next)
        next = dlsym(RTLD_NEXT, "closedir");
    forget(of);
    return next(of);
}

void rewinddir(DIR *of)
{
    static void (*next)(DIR *);
    if (!next)
        next = dlsym(RTLD_NEXT, "rewinddir");
    forget(of);
    next(of);
}

/* --- the record ------------------------------------------------------------------------------------------------- */

static const char *where(void)
{
    if (access("/sandbox.py", F_OK) == 0)
        return "mkosi";
    return access("/usr/bin/mkosi", F_OK) == 0 ? "tools" : "image";
}

__attribute__((constructor)) static void record(void)
{
    char program[4096], host[256] = "", line[8192];
    int before = errno;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    int file = open(RECORD, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (length > 0 && file >= 0) {
        struct utsname kernel;
        program[length] = 0;
        uname(&kernel);
        gethostname(host, sizeof host - 1);
        int size = snprintf(line, sizeof line, "%s %lld %s %s %s\n", where(), (long long)time(NULL),
                            kernel.release, host, program);
        if (write(file, line, size) != size)
            abort();
    }
    if (file >= 0)
        close(file);
    errno = before;
}
