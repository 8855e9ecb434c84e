"""The thread pool as a process sees it: fork, multiprocessing, concurrent callers, affinity, idleness."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from support.attending import compute

import mfa

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux's /proc or affinity"
)


def run_in_fork(work):
    """Exit code of a forked child that does `work`; a hang ends in SIGALRM."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestFork:
    def test_child_has_a_pool_of_its_own(self):
        expected = compute(3)

        def work():
            for _ in range(3):
                np.testing.assert_array_equal(compute(3), expected)

        assert run_in_fork(work) == 0
        np.testing.assert_array_equal(compute(3), expected)

    def test_grandchild(self):
        expected = compute(2)

        def work():
            np.testing.assert_array_equal(compute(2), expected)
            assert run_in_fork(lambda: np.testing.assert_array_equal(compute(2), expected)) == 0

        assert run_in_fork(work) == 0

    def test_fork_while_another_thread_computes(self):
        """The child inherits the pool's locks in whatever state the other thread left them."""
        expected = compute(2)
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                compute(2)

        busy = threading.Thread(target=keep_busy)
        busy.start()
        try:
            codes = [
                run_in_fork(lambda: np.testing.assert_array_equal(compute(2), expected)) for _ in range(10)
            ]
        finally:
            stop.set()
            busy.join()
        assert codes == [0] * 10

    def test_fork_while_other_threads_take_workspaces(self):
        """Calls so small that they are mostly taking and giving back memory under a lock."""
        small = np.ones((1, 1, 1, 4), np.float32)
        stop = threading.Event()
        with mfa.Context(num_threads=1) as context:

            def call():
                for _ in range(100):
                    mfa.attention(small, small, small, context=context)

            def keep_busy():
                while not stop.is_set():
                    call()

            busy = [threading.Thread(target=keep_busy) for _ in range(2)]
            for thread in busy:
                thread.start()
            try:
                codes = [run_in_fork(call) for _ in range(60)]
            finally:
                stop.set()
                for thread in busy:
                    thread.join()
        assert codes == [0] * 60

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing_after_use(self, method):
        expected = compute(2)
        with multiprocessing.get_context(method).Pool(2) as pool:
            for result in pool.map_async(compute, [1, 2, 3, 4]).get(timeout=120):
                np.testing.assert_array_equal(result, expected)


def test_concurrent_callers_with_contexts_of_different_width():
    expected = compute(1)
    wrong = []

    def work(width):
        for _ in range(20):
            if not np.array_equal(compute(width), expected):
                wrong.append(width)

    threads = [threading.Thread(target=work, args=(width,)) for width in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_threads_than_the_pool_has():
    x = np.ones((2000, 1, 1, 4), np.float32)
    with mfa.Context(num_threads=1_000_000) as context:
        assert context.describe().num_threads == 1024
        assert mfa.plan(x, x, x, context=context).num_threads <= 1024


@linux_only
def test_affinity_bounds_the_threads():
    program = textwrap.dedent("""
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ.pop("MFA_NUM_THREADS", None)
        import mfa
        assert mfa.Context().describe().num_threads == 1
        assert mfa.Context(num_threads=3).describe().num_threads == 3
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@linux_only
def test_workers_keep_the_affinity_of_the_process():
    """A call may move a worker before it wakes it; afterwards the worker has its mask again."""
    program = textwrap.dedent("""
        import os, time
        import numpy as np
        import mfa

        x = np.ones((1, 500, 8, 16), np.float32)
        with mfa.Context(num_threads=4) as context:
            for _ in range(20):
                time.sleep(0.002)
                mfa.attention(x, x, x, context=context)
            time.sleep(0.05)
            masks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
        assert masks.count(os.sched_getaffinity(0)) == len(masks) >= 4, masks
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@linux_only
def test_threads_asked_for_are_there_and_no_more():
    program = textwrap.dedent("""
        import os
        import numpy as np
        import mfa

        def threads():
            return len(os.listdir("/proc/self/task"))

        before = threads()
        x = np.ones((1, 500, 8, 16), np.float32)
        mfa.attention(x, x, x, context=mfa.Context(num_threads=1))
        assert threads() == before
        for _ in range(3):
            mfa.attention(x, x, x, context=mfa.Context(num_threads=4))
        assert threads() == before + 3
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@linux_only
def test_idle_threads_sleep():
    compute(4)
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.25  # one spinning thread would use 0.5
