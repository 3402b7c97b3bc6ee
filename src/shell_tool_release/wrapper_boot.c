/* codex-execve-wrapper-py: starts the Python client (docs/protocol.md) in a process that Python leaves as it is.
 *
 * An exec hands on what it finds. A Python that starts as usual ignores SIGPIPE and SIGXFSZ, whatever was set before, and
 * may set LC_CTYPE; the freezer's boot program puts variables of its own into the environment and sets the first handlers
 * itself. So this one, built for the very Python that is frozen beside it, starts it isolated, without signal handlers, and
 * without a word in the environment.
 */
#define PROGRAM "codex-execve-wrapper"
#include "boot.h"

#include <errno.h>

static PyObject *answer(PyObject *result)
{
    if (result != NULL)
        return result;
    PYTHON(PyErr_Print)();
    fail("its client does not work");
}

static void initialize(int argc, char **argv)
{
    static char program[PATH_MAX];
    PyConfig config;
    find_bundle(argv[0], program);
    preinitialize();
    configure(&config, argc, argv, program);
    config.install_signal_handlers = 0;
    check(PYTHON(Py_InitializeFromConfig)(&config));
}

/* The client returns where the program is to be executed here. That is done here too, for the arguments and the environment
 * are still those the kernel gave; else it ends as the program did, or says why there is none. */
int main(int argc, char **argv)
{
    initialize(argc, argv);
    PyObject *client = answer(PYTHON(PyImport_ImportModule)(MODULE));
    PyObject *session = answer(PYTHON(PyObject_CallMethod)(client, "launched", NULL));
    execv(argv[1], argv + 2);
    answer(PYTHON(PyObject_CallMethod)(client, "failed", "Oi", session, errno));
    return NOT_RUN;
}
