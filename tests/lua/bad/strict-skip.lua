-- run --strict, 3
machine("m", { backend = "fake" })

test("needs what is not there", { needs = { "screen" } }, function() end)
