-- run, 2
machine("m", { backend = "fake" })
