"""Helpers of the tests: servers, processes, clocks, disks and the command line."""
