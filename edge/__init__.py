"""The thin router beside the applications: choose, proxy, report, pull."""
