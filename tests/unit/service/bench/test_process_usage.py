"""CPU time and memory of a process and what descends from it."""

import subprocess
import sys

from service.bench.process_usage import descendants_of, tree_cpu_s, tree_pss_bytes

MIB = 1024**2
# A parent that only waits for its child. The child computes for 0.3 s of CPU and holds 40 MiB. It ends with its input.
PARENT = '''
import subprocess, sys
code = """
import sys, time
held = b"x" * (40 << 20)
while time.process_time() < 0.3:
    pass
print("done", flush=True)
sys.stdin.read()
"""
subprocess.run([sys.executable, "-c", code])
print("reaped", flush=True)
sys.stdin.read()
'''


def test_children_count_while_they_live_and_once_they_are_reaped():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert len(descendants_of(parent.pid)) == 2
        assert tree_cpu_s(parent.pid) >= 0.3
        assert tree_pss_bytes(parent.pid) > 40 * MIB
        child = descendants_of(parent.pid)[1]
        subprocess.run(["kill", str(child)], check=True)
        assert parent.stdout.readline() == b"reaped\n"
        assert descendants_of(parent.pid) == [parent.pid]
        assert tree_cpu_s(parent.pid) >= 0.3
        assert tree_pss_bytes(parent.pid) < 40 * MIB
        parent.stdin.close()


def test_a_process_that_has_gone_has_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert tree_cpu_s(process.pid) == 0
    assert tree_pss_bytes(process.pid) == 0
