"""The command line, one file per group. Each command imports what it needs when it runs, so that help is quick."""
