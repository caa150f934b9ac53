"""The commands of `intaglio`, a module each: `arguments(parser)` declares its flags, `run(args)` does it."""
