-- run, 1
local m = machine("m", { backend = "fake", fake = { boot_text = "Booting\n", exec = {
  serve = { stdout = "starting\n", stderr = "cannot bind to port 80\n", code = 98 } } } })
test("serves", function()
  m:succeed("serve")
end)
