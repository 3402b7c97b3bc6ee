"""The shells this package ships, and where its programs lie."""
