LuaT bytecode, in a file that is said to be a test
