"""Huge pages for the time of a run: what is missing is asked of the kernel, and given back afterwards."""
import re

COUNT = '/proc/sys/vm/nr_hugepages'


def read_meminfo(text):
    """Huge pages that are free and promised to nobody, and their size in KiB, from the text of /proc/meminfo."""
    values = {name: int(value) for name, value in re.findall(r'^(\w+):\s+(\d+)', text, re.M)}
    free = values.get('HugePages_Free', 0) - values.get('HugePages_Rsvd', 0)
    return max(0, free), values.get('Hugepagesize', 0)


def missing(free, page_kib, wanted_mib):
    """How many pages lack to `wanted_mib`; None when the kernel has no huge pages at all."""
    if not page_kib:
        return None
    return max(0, -(-wanted_mib * 1024 // page_kib) - free)


class HugePages:
    """`enough` says whether `mib` MiB in huge pages are free; close() puts the machine's setting back."""

    def __init__(self, mib):
        self.before = None
        self.enough = self._missing(mib) == 0 or self._raise(mib)
        if not self.enough:
            self.close()

    @staticmethod
    def _missing(mib):
        with open('/proc/meminfo') as meminfo:
            return missing(*read_meminfo(meminfo.read()), mib)

    def _raise(self, mib):
        lack = self._missing(mib)
        if lack is None:
            return False
        try:
            with open(COUNT) as count:
                before = int(count.read())
            with open(COUNT, 'w') as count:
                count.write(str(before + lack))
        except OSError:
            return False
        self.before = before
        return self._missing(mib) == 0

    def close(self):
        if self.before is not None:
            with open(COUNT, 'w') as count:
                count.write(str(self.before))
            self.before = None
