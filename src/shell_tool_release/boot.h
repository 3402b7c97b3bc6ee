/* What both boot programs share: finding the bundle beside the program, and libpython in it.
 *
 * The library is loaded by its path, so that no search path is needed, neither in the program nor in the environment: what
 * the server starts gets the environment that the server got.
 */
#ifndef BOOT_H
#define BOOT_H

#include <Python.h>

#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_RUN 126
#define BUNDLE "/_internal"

static char folder[PATH_MAX];

static _Noreturn void fail(const char *what)
{
    const char *pieces[] = {PROGRAM ": Python cannot be started: ", what, "; reinstall the package\n"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        ssize_t ignored = write(STDERR_FILENO, pieces[i], strlen(pieces[i]));
        (void)ignored;
    }
    _exit(NOT_RUN);
}

/* Where a loader was named on the command line, as on systems without glibc, the kernel knows that one as the program; the
 * first argument is then ours (ld.so(8)). So it is without /proc. */
static void find_program(const char *argument)
{
    ssize_t size = readlink("/proc/self/exe", folder, sizeof folder - 1);
    folder[size > 0 ? size : 0] = '\0';
    const char *name = strrchr(folder, '/');
    bool is_ours = name != NULL && strncmp(name, "/ld-linux", 9) != 0;
    if (!is_ours && (strchr(argument, '/') == NULL || realpath(argument, folder) == NULL))
        fail("its own path cannot be found out");
}

/* Puts the path of the program there for keeping, and cuts it to its folder for bundled(). */
static void find_bundle(const char *argument, char *program)
{
    find_program(argument);
    strcpy(program, folder);
    char *last = strrchr(folder, '/');
    if (last == NULL)
        fail("its path is none");
    *last = '\0';
}

/* A path below the bundle, which lies beside the program. */
static const char *bundled(const char *name)
{
    static char found[PATH_MAX + 256];
    snprintf(found, sizeof found, "%s" BUNDLE "%s", folder, name);
    return found;
}

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

/* UTF-8 whatever the locale says: bytes come and go as they are. */
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

/* Isolated: neither the environment nor the working directory has a say in what is imported. */
static void configure(PyConfig *config, int argc, char **argv, const char *program)
{
    PYTHON(PyConfig_InitIsolatedConfig)(config);
    config->parse_argv = 0;
    config->site_import = 0;
    config->write_bytecode = 0;
    config->configure_c_stdio = 0;
    config->optimization_level = 2;
    check(PYTHON(PyConfig_SetBytesString)(config, &config->home, bundled("")));
    check(PYTHON(PyConfig_SetBytesString)(config, &config->program_name, program));
    check(PYTHON(PyConfig_SetBytesString)(config, &config->executable, program));
    check(PYTHON(PyConfig_SetBytesArgv)(config, argc, argv));
    config->module_search_paths_set = 1;
    add_search_path(config, "");
#ifdef EXTENSIONS
    add_search_path(config, "/" EXTENSIONS);
#endif
}

#endif
