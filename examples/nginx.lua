-- One machine with Debian's nginx package: does it serve?
suite { name = "nginx", tags = { "web", "example" } }

local server = machine("server", { image = "debian-13", packages = { "nginx", "curl" }, memory = "512M" })

setup(function()
  server:wait_for_unit("nginx")
  server:wait_for_open_port(80)
end)

test("serves the welcome page", function()
  local page = server:succeed("curl --silent --show-error --fail http://localhost/")
  assert_contains(page, "Welcome to nginx")
end)

test("says 404 for what it does not have", function()
  server:fail("curl --silent --show-error --fail http://localhost/no-such-page")
  assert_eq(server:succeed("curl --silent --output /dev/null --write-out '%{http_code}' http://localhost/no-such-page"), "404")
end)

test("comes back after a restart", function()
  server:succeed("systemctl stop nginx")
  server:wait_for_closed_port(80)
  server:succeed("systemctl start nginx")
  server:wait_for_open_port(80)
end)
