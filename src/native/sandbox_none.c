/* Systems where the server wraps the shell itself (macOS: sandbox-exec): here nothing can be applied, so nothing is
 * promised. */
#include "sandbox.h"

bool sandbox_apply(const struct sandbox_options *options, struct sandbox_refusal *refusal)
{
    if (!options->restrict_writes && !options->no_network)
        return true;
    refusal->error = 0;
    text_start(&refusal->text);
    text_add(&refusal->text, "--restrict and --no-network: the supervisor has no sandbox of its own on this system; "
                             "wrap the shell with sandbox-exec instead");
    return false;
}

void sandbox_probe(struct sandbox_abilities *abilities)
{
    abilities->landlock_abi = 0;
    abilities->seccomp = false;
#ifdef __APPLE__
    abilities->platform = "macos";
#else
    abilities->platform = "other";
#endif
}
