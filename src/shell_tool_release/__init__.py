"""The release pipeline: from a clone to a tested npm tarball. Not part of what is shipped."""
