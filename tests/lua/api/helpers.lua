-- Texts: re, json, trim, lines, shell, base64, time.
suite { name = "helpers", timeout = "20s" }

test("re.match", function()
  local c = re.match("port 8080 open", "port (?<port>\\d+)")
  assert_eq({ c[0], c[1], c.port }, { "port 8080", "8080", "8080" })
  assert_eq(re.match("abc", "x"), nil)
  assert_eq(re.match("a\nb", "^b$")[0], "b")
  assert_eq(re.match("ab", "(a)(x)?(b)")[3], "b") -- a group that took no part
  assert_eq(re.match(42, "4")[0], "4")
  assert_eq(re.match("grüße", "ü(.)")[1], "ß")
  local e = assert_error(function() re.match("x", "(unclosed") end)
  assert_eq(e.kind, "usage")
  assert_contains(e.message, "(unclosed")
end)

test("re.gmatch", function()
  local found = {}
  for c in re.gmatch("a=1 b=2 c=", "(\\w)=(\\d?)") do found[#found + 1] = c[1] .. c[2] end
  assert_eq(found, { "a1", "b2", "c" })
  local n = 0
  for _ in re.gmatch("abc", "x*") do n = n + 1 end -- empty matches come to an end
  assert_eq(n, 4)
end)

test("re.gsub", function()
  assert_eq({ re.gsub("Tom and Ann", "(\\w+) and (\\w+)", "%2 and %1") }, { "Ann and Tom", 1 })
  assert_eq({ re.gsub("aaa", "a", "b", 2) }, { "bba", 2 })
  assert_eq(re.gsub("5", "\\d", "%0%%"), "5%")
  assert_eq(re.gsub("a1b2", "\\d", function(c) return "<" .. c[0] .. ">" end), "a<1>b<2>")
  assert_eq(re.gsub("a1b2", "\\d", function(c) if c[0] == "1" then return "x" end end), "axb2")
  assert_eq(re.gsub("$HOME is $PWD", "\\$(\\w+)", { HOME = "/root" }), "/root is $PWD")
  assert_eq({ re.gsub("ab", "x*", "-") }, { "-a-b-", 3 })
  assert_eq(assert_error(function() re.gsub("a", "a", true) end).kind, "usage")
end)

test("json", function()
  assert_eq(json.encode({ b = 1, a = { true, "x" } }), '{"a":[true,"x"],"b":1}')
  assert_eq(json.encode("\n\"\0"), '"\\n\\"\\u0000"')
  assert_eq(json.encode(json.null), "null")
  assert_eq(json.encode({ 1.5, 0.1 }), "[1.5,0.1]")
  assert_eq(json.encode(9007199254740993), "9007199254740993")
  local v = json.decode('{ "list": [1, 2.5, null], "text": "grün", "deep": { "x": false } }')
  assert_eq(v.list[1], 1)
  assert_eq(math.type(v.list[1]), "integer")
  assert_eq(v.list[2], 2.5)
  assert_eq(v.list[3], json.null)
  assert_eq({ v.text, v.deep.x }, { "grün", false })
  assert_eq(json.decode("7"), 7)

  local e = assert_error(function() json.decode('{"a":\n oops}') end, "line 2")
  assert_eq(e.kind, "expect") -- what a service answered, most likely
  for _, bad in ipairs { function() end, { [{}] = 1 }, { f = print } } do
    assert_eq(assert_error(function() json.encode(bad) end).kind, "usage")
  end
  local loop = {}
  loop.loop = loop
  assert_eq(assert_error(function() json.encode(loop) end).kind, "usage")
end)

test("trim and lines", function()
  assert_eq(trim("  \t a b \r\n"), "a b")
  assert_eq(trim(""), "")
  assert_eq(trim(" \n "), "")
  assert_eq(lines("a\nb\r\n\nc\n"), { "a", "b", "", "c" })
  assert_eq(lines("no end"), { "no end" })
  assert_eq(lines(""), {})
end)

test("shell.quote", function()
  assert_eq(shell.quote("plain-word_1.2/x"), "plain-word_1.2/x")
  assert_eq(shell.quote("two words"), "'two words'")
  assert_eq(shell.quote("it's"), "'it'\\''s'")
  assert_eq(shell.quote(""), "''")
  assert_eq(shell.quote("$(rm -rf /)"), "'$(rm -rf /)'")
  assert_eq(assert_error(function() shell.quote("a\0b") end, "NUL").kind, "usage")
end)

test("base64", function()
  for text, coded in pairs { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foobar = "Zm9vYmFy" } do
    assert_eq(base64.encode(text), coded)
    assert_eq(base64.decode(coded), text)
  end
  local bytes = {}
  for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
  local all = table.concat(bytes)
  assert_eq(base64.decode(base64.encode(all)), all)
  assert_eq(base64.decode("Zm9v\nYmFy\n"), "foobar")
  assert_eq(assert_error(function() base64.decode("Zm9v!") end, "byte 5").kind, "usage")
end)

test("time.now goes on, and only forwards", function()
  local t = time.now()
  sleep("20ms")
  local passed = time.now() - t
  assert_ge(passed, 0.02)
  assert_lt(passed, 10)
end)
