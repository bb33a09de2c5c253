#!/bin/sh
# The sidecar of this folder, wherever the folder lies. Replaces itself by the interpreter: one process, the same pid.
# The interpreter is isolated (-I: no variable of Python, no folder of the user) and writes no bytecode (-B).
me=$0
while [ -L "$me" ]; do
  to=$(command -p readlink "$me") || exit 1
  case $to in /*) me=$to ;; *) me=${me%/*}/$to ;; esac
done
here=${me%/*}
[ "$here" = "$me" ] && here=.
case $here in /*) ;; *) here=$PWD/$here ;; esac
exec "$here/python/bin/@PYTHON@" -I -X utf8 -B -m locara_sidecar "$@"
