/* codex-execve-wrapper-py: starts the Python client (docs/protocol.md) in a process that Python leaves as it is.
 *
 * An exec hands on what it finds. A Python that starts as usual ignores SIGPIPE and SIGXFSZ, whatever was set before, and
 * may set LC_CTYPE; the freezer's boot program puts variables of its own into the environment and sets the first handlers
 * itself. So this one, built for the very Python that is frozen beside it, starts it isolated, without signal handlers, in
 * UTF-8 (bytes come and go as they are), and without a word in the environment.
 */
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define NOT_RUN 126
#define BUNDLE "/_internal"

static char path[PATH_MAX];

static _Noreturn void fail(const char *what)
{
    const char *pieces[] = {"codex-execve-wrapper: Python cannot be started: ", what, "; reinstall the package\n"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        ssize_t ignored = write(STDERR_FILENO, pieces[i], strlen(pieces[i]));
        (void)ignored;
    }
    _exit(NOT_RUN);
}

/* A path below the bundle, which lies beside this program. */
static const char *bundled(const char *name)
{
    static char found[PATH_MAX + 256];
    if (path[0] == '\0') {
        ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
        char *last = size > 0 ? strrchr(path, '/') : NULL;
        if (last == NULL)
            fail("/proc/self/exe cannot be read");
        *last = '\0';
    }
    snprintf(found, sizeof found, "%s" BUNDLE "%s", path, name);
    return found;
}

/* The library is loaded by its path, so that no search path is needed, neither in this file nor in the environment. */
static void *symbol(const char *name)
{
    static void *library;
    if (library == NULL && (library = dlopen(bundled("/" LIBRARY), RTLD_NOW | RTLD_GLOBAL)) == NULL)
        fail(dlerror());
    void *found = dlsym(library, name);
    if (found == NULL)
        fail(dlerror());
    return found;
}

#define PYTHON(name) ((__typeof__(&name))symbol(#name))

static void check(PyStatus status)
{
    if (PYTHON(PyStatus_Exception)(status))
        fail(status.err_msg != NULL ? status.err_msg : "it does not say why");
}

static void preinitialize(void)
{
    PyPreConfig config;
    PYTHON(PyPreConfig_InitIsolatedConfig)(&config);
    config.utf8_mode = 1;
    config.coerce_c_locale = 0;
    config.configure_locale = 0;
    check(PYTHON(Py_PreInitialize)(&config));
}

static void add_search_path(PyConfig *config, const char *name)
{
    wchar_t *decoded = PYTHON(Py_DecodeLocale)(bundled(name), NULL);
    if (decoded == NULL)
        fail("no memory");
    check(PYTHON(PyWideStringList_Append)(&config->module_search_paths, decoded));
    PYTHON(PyMem_RawFree)(decoded);
}

static void initialize(int argc, char **argv)
{
    PyConfig config;
    PYTHON(PyConfig_InitIsolatedConfig)(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    config.configure_c_stdio = 0;
    check(PYTHON(PyConfig_SetBytesString)(&config, &config.home, bundled("")));
    check(PYTHON(PyConfig_SetBytesString)(&config, &config.program_name, bundled("")));
    check(PYTHON(PyConfig_SetBytesArgv)(&config, argc, argv));
    config.module_search_paths_set = 1;
    add_search_path(&config, "");
    add_search_path(&config, "/" EXTENSIONS);
    check(PYTHON(Py_InitializeFromConfig)(&config));
}

static PyObject *answer(PyObject *result)
{
    if (result != NULL)
        return result;
    PYTHON(PyErr_Print)();
    fail("its client does not work");
}

/* The client returns where the program is to be executed here. That is done here too, for the arguments and the environment
 * are still those the kernel gave; else it ends as the program did, or says why there is none. */
int main(int argc, char **argv)
{
    preinitialize();
    initialize(argc, argv);
    PyObject *client = answer(PYTHON(PyImport_ImportModule)(MODULE));
    PyObject *session = answer(PYTHON(PyObject_CallMethod)(client, "launched", NULL));
    execv(argv[1], argv + 2);
    answer(PYTHON(PyObject_CallMethod)(client, "failed", "Oi", session, errno));
    return NOT_RUN;
}
