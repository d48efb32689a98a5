#!/bin/sh
# What a test machine may have as its init: does its work, then goes on with the image's.
echo "$(hostname) $0 $$" > /first.new
mv /first.new /first
exec /sbin/init
