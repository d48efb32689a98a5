-- A module for sandbox.lua: returns its own table, and counts how often it was loaded.
loads = (loads or 0) + 1
return { hello = function(name) return "hello " .. name end, name = ... }
