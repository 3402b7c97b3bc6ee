/* codex-exec-mcp-server: starts the frozen server.
 *
 * The freezer's own boot program starts itself a second time with a search path for libraries in the environment, which then
 * has to be kept from every command a user runs. This one needs none, and takes half the time.
 */
#define PROGRAM "codex-exec-mcp-server"
#include "boot.h"

#include <sys/prctl.h>

#define SCRIPT L"import sys; sys.frozen = True; from " MODULE L" import " FUNCTION L"; sys.exit(" FUNCTION L"())"

/* The module codex_shell_tool_boot: what only C can ask of the kernel. */
static PyObject *become_reaper(PyObject *self, PyObject *ignored)
{
    (void)self, (void)ignored;
    return PYTHON(PyBool_FromLong)(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
}

static PyMethodDef methods[] = {
    {"become_reaper", become_reaper, METH_NOARGS, "Have the kernel hand this process what its descendants leave."},
    {0},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "codex_shell_tool_boot", .m_size = 0, .m_methods = methods};

static PyObject *make_module(void)
{
    return PYTHON(PyModule_Create2)(&module, PYTHON_API_VERSION);
}

int main(int argc, char **argv)
{
    static char program[PATH_MAX];
    PyConfig config;
    find_bundle(argv[0], program);
    prctl(PR_SET_NAME, PROGRAM); /* else it has the loader's, where that was named */
    PYTHON(PyImport_AppendInittab)(module.m_name, make_module);
    preinitialize();
    configure(&config, argc, argv, program);
    config.install_signal_handlers = 1; /* SIGINT ends it as an exception does; a closed pipe is an error, no signal */
    check(PYTHON(PyConfig_SetString)(&config, &config.run_command, SCRIPT));
    check(PYTHON(Py_InitializeFromConfig)(&config));
    return PYTHON(Py_RunMain)();
}
