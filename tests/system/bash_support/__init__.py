"""What the tests of the patched shell share: two C programs, a rig that runs a shell, a generator of commands."""
