"""The `avesformer` command: one file per subcommand."""
