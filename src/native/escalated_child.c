#include "escalated_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "attributes.h"
#include "descriptors.h"
#include "group.h"
#include "signals.h"

const char *stage_text(int stage)
{
    switch (stage) {
    case STAGE_GROUP:
        return "its process group could not be joined";
    case STAGE_DIRECTORY:
        return "its directory could not be entered";
    case STAGE_PRIORITY:
        return "its nice value could not be set";
    case STAGE_DESCRIPTORS:
        return "its descriptors could not be set up";
    case STAGE_LIMITS:
        return "its resource limits could not be set";
    case STAGE_CHANGED:
        return "it is no longer the file that was decided on";
    default:
        return "its process could not be set up";
    }
}

/* The child may live in its parent's memory: what is to be changed are copies, made before, and it allocates nothing. */
struct becoming {
    struct escalation escalation;
    int *descriptors;
    char **argv, **env;
    int report;
    pid_t parent;
    bool shares; /* its parent's memory */
    struct child_room room;
};

static _Noreturn void fail(int pipe, enum start_stage stage)
{
    struct start_report report = {(int)stage, errno};
    write_all(pipe, &report, sizeof report);
    _exit(127);
}

/* ---- descriptors ---------------------------------------------------------------------------------------------- */

/* Whatever is still needed moves out of the way of `number`: to any free one, from where it moves again if need be. So one
 * free number is enough, however low the limit. */
static bool clear_number(int number, int *descriptors, size_t count, int *const *others, size_t other_count)
{
    int *user = NULL;
    if (fcntl(number, F_GETFD) < 0)
        return true;
    for (size_t i = 0; i < count && user == NULL; i++)
        if (descriptors[i] == number)
            user = &descriptors[i];
    for (size_t i = 0; i < other_count && user == NULL; i++)
        if (*others[i] == number)
            user = others[i];
    if (user == NULL)
        return true; /* the supervisor's own: dup2 closes it */
    *user = fcntl(number, F_DUPFD_CLOEXEC, 3);
    return *user >= 0;
}

static bool place_descriptors(const struct becoming *becoming, int *program, int *report)
{
    const struct escalation *escalation = &becoming->escalation;
    int *const others[] = {program, report};
    int *descriptors = becoming->descriptors;
    for (size_t i = 0; i < escalation->count; i++) {
        int number = (int)escalation->numbers[i];
        if (descriptors[i] == number) {
            if (!set_close_on_exec(number, false))
                return false;
            continue;
        }
        if (!clear_number(number, descriptors + i + 1, escalation->count - i - 1, others, 2) ||
            dup2(descriptors[i], number) < 0)
            return false;
        close(descriptors[i]);
        descriptors[i] = number;
    }
    return true;
}

/* ---- the exec ------------------------------------------------------------------------------------------------- */

char **string_vector(const char *string, uint32_t count)
{
    char **vector = malloc(((size_t)count + 1) * sizeof *vector);
    if (vector == NULL)
        return NULL;
    for (uint32_t i = 0; i < count; i++, string = next_string(string))
        vector[i] = (char *)(uintptr_t)string;
    vector[count] = NULL;
    return vector;
}

/* Whether the path still leads to the file that was decided on. */
static bool same_file(const char *path, int program)
{
    struct stat decided, found;
    int now = open(path, OPEN_PATH);
    bool same = now >= 0 && fstat(now, &found) == 0 && fstat(program, &decided) == 0 && found.st_dev == decided.st_dev &&
                found.st_ino == decided.st_ino;
    if (now >= 0)
        close(now);
    return same;
}

/* Whether it was not written to since it was decided: the descriptor stays the same file through that. */
static bool unchanged(const struct spawn *decided, int program)
{
    struct stat now;
    if (fstat(program, &now) != 0)
        return false;
#ifdef __APPLE__
    const struct timespec *modified = &now.st_mtimespec, *changed = &now.st_ctimespec;
#else
    const struct timespec *modified = &now.st_mtim, *changed = &now.st_ctim;
#endif
    return (uint64_t)now.st_size == decided->size &&
           (uint64_t)modified->tv_sec * 1000000000u + (uint64_t)modified->tv_nsec == decided->modified &&
           (uint64_t)changed->tv_sec * 1000000000u + (uint64_t)changed->tv_nsec == decided->changed;
}

#ifdef __linux__

static void execute_descriptor(const struct escalation *escalation, int program, char **argv, char **env)
{
    syscall(SYS_execveat, program, "", argv, env, AT_EMPTY_PATH);
    if (errno != ENOENT)
        return;
    /* A script: its interpreter opens it as /dev/fd/N, so N must stay open, out of the way of the program's own. */
    uint32_t highest = 2;
    for (size_t i = 0; i < escalation->count; i++)
        if (escalation->numbers[i] > highest)
            highest = escalation->numbers[i];
    int kept = fcntl(program, F_DUPFD, (int)highest + 1);
    if (kept < 0)
        kept = fcntl(program, F_DUPFD, 3);
    errno = kept < 0 ? errno : ENOENT;
    if (kept >= 0)
        syscall(SYS_execveat, kept, "", argv, env, AT_EMPTY_PATH);
}

#else

/* There is no exec of a descriptor: the next best is to look first. */
static void execute_descriptor(const struct escalation *escalation, int program, char **argv, char **env)
{
    const char *path = escalation->spawn->what.file;
    if (same_file(path, program))
        execve(path, argv, env);
    else
        errno = ESTALE;
}

#endif

static _Noreturn void execute(const struct becoming *becoming, int program, int report)
{
    const struct escalation *escalation = &becoming->escalation;
    const struct request *what = &escalation->spawn->what;
    if (program >= 0 && (!unchanged(escalation->spawn, program) ||
                         ((what->flags & SPAWN_BY_PATH) != 0 && !same_file(what->file, program)))) {
        errno = ESTALE;
        fail(report, STAGE_CHANGED);
    }
    signals_block(escalation->attributes->blocked);
    if ((what->flags & SPAWN_BY_PATH) != 0 || program < 0)
        execve(what->file, becoming->argv, becoming->env);
    else
        execute_descriptor(escalation, program, becoming->argv, becoming->env);
    fail(report, errno == ESTALE ? STAGE_CHANGED : STAGE_EXEC);
}

static bool enter_directory(const struct escalation *escalation)
{
    if (escalation->cwd >= 0)
        return fchdir(escalation->cwd) == 0;
    if (escalation->spawn->what.cwd[0] != '/') {
        errno = ENOENT;
        return false;
    }
    return chdir(escalation->spawn->what.cwd) == 0;
}

static void become_program(const void *what)
{
    const struct becoming *becoming = what;
    const struct escalation *escalation = &becoming->escalation;
    int program = escalation->program, report = becoming->report;
#ifdef __linux__
    /* Should we be killed, it goes as well. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != becoming->parent)
        _exit(127);
#endif
    if (setpgid(0, escalation->group) != 0)
        fail(report, STAGE_GROUP);
    if (!enter_directory(escalation))
        fail(report, STAGE_DIRECTORY);
    umask((mode_t)escalation->spawn->what.umask);
    if (!apply_nice(escalation->attributes))
        fail(report, STAGE_PRIORITY);
    if (escalation->client > 0)
        adopt_standing(escalation->client);
    if (escalation->client > 0 && !becoming->shares)
        adopt_oom_score(escalation->client);
    if (!place_descriptors(becoming, &program, &report))
        fail(report, STAGE_DESCRIPTORS);
    signals_hand_on(escalation->attributes->ignored);
    setrlimit(RLIMIT_NOFILE, &escalation->limit);
    if (!apply_limits(escalation->attributes))
        fail(report, STAGE_LIMITS);
    execute(becoming, program, report);
}

static bool prepare(struct becoming *becoming)
{
    const struct escalation *escalation = &becoming->escalation;
    const struct request *what = &escalation->spawn->what;
    becoming->parent = getpid();
    becoming->argv = string_vector(what->argv, what->argc);
    becoming->env = string_vector(what->env, what->envc);
    becoming->descriptors = malloc((escalation->count + 1) * sizeof *becoming->descriptors);
    if (becoming->argv == NULL || becoming->env == NULL || becoming->descriptors == NULL)
        return false;
    if (escalation->count > 0)
        memcpy(becoming->descriptors, escalation->descriptors, escalation->count * sizeof *becoming->descriptors);
    /* It can take everything over but this without our taking part. */
    becoming->shares = escalation->client <= 0 || has_our_oom_score(escalation->client);
    return true;
}

static pid_t start_child(struct becoming *becoming)
{
    if (becoming->shares)
        return group_share(become_program, becoming, &becoming->room);
    pid_t child = group_fork();
    if (child == 0)
        become_program(becoming);
    return child;
}

static pid_t start_prepared(struct becoming *becoming, int *report)
{
    int ends[2];
    pid_t group = becoming->escalation.group;
    if (!pipe_pair(ends))
        return -1;
    becoming->report = ends[1];
    uint64_t mask = signals_block(SIGNALS_ALL);
    pid_t child = start_child(becoming);
    int error = errno;
    if (child > 0)
        setpgid(child, group == 0 ? child : group); /* whoever of us is first */
    signals_block(mask);
    close(ends[1]);
    if (child < 0)
        close(ends[0]);
    else
        *report = ends[0];
    errno = error;
    return child;
}

/* One that is used again: the next child finds its pages there. */
static struct becoming *spare;

pid_t start_escalated(const struct escalation *escalation, struct becoming **becoming, int *report)
{
    struct becoming *made = spare != NULL ? spare : malloc(sizeof *made);
    pid_t child = -1;
    spare = NULL;
    errno = ENOMEM;
    if (made == NULL)
        return -1;
    made->escalation = *escalation;
    if (prepare(made))
        child = start_prepared(made, report);
    int error = errno;
    if (child < 0)
        free_becoming(made);
    else
        *becoming = made;
    errno = error;
    return child;
}

void free_becoming(struct becoming *becoming)
{
    if (becoming == NULL)
        return;
    free(becoming->argv);
    free(becoming->env);
    free(becoming->descriptors);
    if (spare == NULL)
        spare = becoming;
    else
        free(becoming);
}
