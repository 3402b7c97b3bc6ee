"""Measures this project's server side by side with the npm build of the original; see README.md."""
