-- check, 2
test("one")
