-- check, 2
while true do end
