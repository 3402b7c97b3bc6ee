#include "environment.h"

#include <stddef.h>
#include <string.h>

/* The reasons stand in escalation/environ.py. */
static const char *const prefixes[] = {"LD_", "DYLD_", "BASH_FUNC_"};

static const char *const names[] = {
    "EXEC_WRAPPER", "CODEX_ESCALATE_SOCKET", "BASH_EXEC_WRAPPER",
    "CODEX_SANDBOX", "CODEX_SANDBOX_NETWORK_DISABLED",
    "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH", "HOSTALIASES", "RESOLV_HOST_CONF",
    "BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "IFS", "CDPATH", "GLOBIGNORE",
    "ZDOTDIR", "FPATH", "NULLCMD", "READNULLCMD", "PROMPT4",
};

bool is_dropped(const char *entry)
{
    size_t length = strcspn(entry, "=");
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(entry, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && memcmp(entry, names[i], length) == 0)
            return true;
    return false;
}

uint32_t filter_environment(char *entries, uint32_t count)
{
    uint32_t left = 0;
    char *to = entries;
    for (const char *entry = entries; count > 0; count--) {
        size_t size = strlen(entry) + 1;
        if (!is_dropped(entry)) {
            memmove(to, entry, size);
            to += size;
            left++;
        }
        entry += size;
    }
    return left;
}
