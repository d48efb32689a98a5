#!/bin/sh
echo the tool runs
