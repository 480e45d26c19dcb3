#!/usr/bin/python3
"""A small storage repository in Python, written from SMAPIv3.md alone: disks are sparse files in a directory.

One file is both plugins: links named SR.*, Volume.* and Plugin.query lead to it from volume/<name>/, Datapath.*
and Plugin.query from datapath/pydir/. It takes no module that is not Python's own, and Python 3.6.
"""
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid

RUN = os.environ.get("PYDIR_SR_RUN", "/run/pydir-sr")
IN_USE, NO_SR, SR_EXISTS, SR_IN_USE, BAD_SIZE, NO_VOLUME, BAD_ARG = 24, 47, 42, 16, 79, 144, 1


# Stops a process while a command runs: one that writes a file meanwhile would leave parts of several moments in a
# copy. It goes on when the command ends, and also when the plugin is killed.
FROZEN = """
trap 'kill -CONT $pid' EXIT; pid=$1; shift; kill -STOP $pid
while grep -L '^State:.T' /proc/$pid/task/*/status | grep -q .; do sleep 0.01; done
"$@"
"""


class Failed(Exception):
    """What the user is told, and its number."""

    def __init__(self, number, message):
        super().__init__(message)
        self.number = number


def plain(name):
    """A key becomes a part of a path: it must not lead out of the directory."""
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise Failed(BAD_ARG, "%r is not the name of an SR or a volume, which is a UUID" % name)
    return name


def load(path):
    with open(path) as file:
        return json.load(file)


def save(path, value):
    """Readers find the old file or the new one."""
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.rename(path + ".new", path)


class Locked:
    """Calls come at the same time: what changes a directory holds its lock."""

    def __init__(self, directory):
        self.file = open(os.path.join(directory, ".lock"), "w")

    def __enter__(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def directory(configuration):
    path = configuration.get("path", "")
    if not path.startswith("/") or not os.path.isdir(path):
        raise Failed(BAD_ARG, "device-config:path=%r is no directory; give the full path of one" % path)
    return path


def attached(sr):
    try:
        return os.readlink(os.path.join(RUN, "attached", plain(sr)))
    except OSError:
        raise Failed(NO_SR, "Sr_not_attached: SR %s is not attached; run xe pbd-plug" % sr)


def sr_create(uuid, configuration, name, description):
    record = os.path.join(directory(configuration), "sr.json")
    if os.path.exists(record):
        raise Failed(SR_EXISTS, record + " is there: attach this SR, or remove the file")
    save(record, {"sr": plain(uuid), "uuid": uuid, "name": name, "description": description,
                  "datasources": [], "clustered": False, "health": ["Healthy", ""]})
    return configuration


def sr_attach(configuration):
    path = directory(configuration)
    if not os.path.exists(os.path.join(path, "sr.json")):
        raise Failed(NO_SR, "SR_does_not_exist: there is no SR in %s; run xe sr-create" % path)
    sr = load(os.path.join(path, "sr.json"))["sr"]
    os.makedirs(os.path.join(RUN, "attached"), exist_ok=True)
    try:
        os.symlink(path, os.path.join(RUN, "attached", sr))
    except FileExistsError:
        pass
    return sr


def sr_detach(sr):
    """Twice is no error: a daemon that died after the call repeats it."""
    if not os.path.islink(os.path.join(RUN, "attached", plain(sr))):
        return
    for volume in sr_ls(sr):
        if active(volume["key"]):
            raise Failed(SR_IN_USE, "volume %s is in use; unplug it first" % volume["key"])
    os.remove(os.path.join(RUN, "attached", plain(sr)))


def sr_destroy(sr):
    path = attached(sr)
    for volume in sr_ls(sr):
        volume_destroy(sr, volume["key"])
    sr_detach(sr)
    os.remove(os.path.join(path, "sr.json"))


def sr_stat(sr):
    path = attached(sr)
    space = os.statvfs(path)
    return dict(load(os.path.join(path, "sr.json")), free_space=space.f_bavail * space.f_frsize,
                total_space=space.f_blocks * space.f_frsize)


def sr_ls(sr):
    path = attached(sr)
    keys = [name[:-4] for name in os.listdir(path) if name.endswith(".img")]
    return [volume for volume in map(lambda key: find(path, key), keys) if volume]


def sr_set(sr, **fields):
    path = attached(sr)
    with Locked(path):
        save(os.path.join(path, "sr.json"), dict(load(os.path.join(path, "sr.json")), **fields))


def find(path, key):
    """The record of a volume, or nothing."""
    image = os.path.join(path, plain(key) + ".img")
    try:
        return dict(load(image[:-3] + "json"), physical_utilisation=os.stat(image).st_blocks * 512)
    except FileNotFoundError:
        return None


def volume_stat(sr, key):
    volume = find(attached(sr), key)
    if not volume:
        raise Failed(NO_VOLUME, "Volume_does_not_exist: there is no volume %s in SR %s; run xe sr-scan" % (key, sr))
    return volume


def rounded(size):
    if size < 0:
        raise Failed(BAD_SIZE, "a volume cannot have %d bytes: give 512 or more" % size)
    return max((size + 511) // 512 * 512, 512)


def add(path, volume, fill):
    """Makes the files of a new volume, the image last: with that it is there."""
    key = str(uuid.uuid4())
    image = os.path.join(path, key + ".img")
    volume = dict(volume, key=key, uuid=key, uri=["pydir://" + image], keys={"content_id": str(uuid.uuid4())})
    part = os.path.join(path, key + ".part")
    try:
        fill(part)
        save(image[:-3] + "json", volume)
        os.rename(part, image)
    except BaseException:
        for left in [part, image[:-3] + "json"]:
            if os.path.exists(left):
                os.remove(left)
        raise
    return find(path, key)


def volume_create(sr, name, description, size, sharable):
    def fill(image):
        with open(image, "wb") as file:
            file.truncate(rounded(size))
    return add(attached(sr), {"name": name, "description": description, "read_write": True, "sharable": sharable,
                              "virtual_size": rounded(size)}, fill)


def copy(sr, key, read_write):
    path = attached(sr)
    with Locked(path):
        old = volume_stat(sr, key)

        def fill(image):
            command = ["cp", "--reflink=auto", "--sparse=always", os.path.join(path, key + ".img"), image]
            pid = server(os.path.join(RUN, "active", key))
            if pid:
                command = ["bash", "-c", FROZEN, "bash", str(pid)] + command
            subprocess.check_output(command, stderr=subprocess.STDOUT)
        return add(path, dict(old, read_write=read_write), fill)


def volume_resize(sr, key, new_size):
    path = attached(sr)
    with Locked(path):
        volume, size = volume_stat(sr, key), rounded(new_size)
        if size < volume["virtual_size"]:
            raise Failed(BAD_SIZE, "volume %s has %d bytes and cannot shrink to %d" % (key, volume["virtual_size"], size))
        refuse_active(key)
        os.truncate(os.path.join(path, key + ".img"), size)
        save(os.path.join(path, key + ".json"), dict(volume, virtual_size=size))


def volume_destroy(sr, key):
    path = attached(sr)
    with Locked(path):
        refuse_active(plain(key))
        for end in [".img", ".json"]:
            if os.path.exists(os.path.join(path, key + end)):
                os.remove(os.path.join(path, key + end))


def change(sr, key, edit):
    path = attached(sr)
    with Locked(path):
        volume = volume_stat(sr, key)
        edit(volume)
        save(os.path.join(path, key + ".json"), volume)


# The datapath: per active disk a directory with the server's socket and a file per domain.

def active(key):
    return os.path.exists(os.path.join(RUN, "active", key))


def refuse_active(key):
    if active(key):
        raise Failed(IN_USE, "volume %s is in use; unplug it first" % key)


def disk(uri):
    image = uri.split("://", 1)[1]
    key = plain(os.path.basename(image)[:-4])
    return image, key, os.path.join(RUN, "active", key)


def user(place, domain):
    return os.path.join(place, "user-" + re.sub("[^A-Za-z0-9]", "_", domain))


def server(place):
    """The number of the server's process, if it lives and is one: a dead one has no command line."""
    try:
        with open(os.path.join(place, "pid")) as file:
            pid = int(file.read())
        with open("/proc/%d/cmdline" % pid) as file:
            return pid if file.read().startswith("qemu-nbd\0") else None
    except (OSError, ValueError):
        return None


def attach(uri, domain):
    image, key, place = disk(uri)
    if not os.path.exists(image):
        raise Failed(NO_VOLUME, "Volume_does_not_exist: there is no file %s" % image)
    return {"implementations": [["Nbd", {"uri": "nbd:unix:%s/nbd:exportname=%s" % (place, key)}]]}


def activate(uri, domain, read_only):
    image, key, place = disk(uri)
    with Locked(os.path.dirname(image)):
        if not server(place):
            os.makedirs(place, exist_ok=True)
            read_only = read_only or not load(image[:-3] + "json")["read_write"]
            command = ["qemu-nbd", "--fork", "--persistent", "--shared=0", "--format=raw", "--export-name=" + key,
                       "--socket=%s/nbd" % place, "--pid-file=%s/pid" % place, image]
            # A server outlives the call: no stream and no descriptor of the caller's stays open in it.
            with open(os.path.join(place, "log"), "w") as log:
                ended = subprocess.call(command + ["--read-only"] * read_only, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
            if ended:
                with open(os.path.join(place, "log")) as log:
                    told = log.read()
                shutil.rmtree(place)
                raise Failed(46, "qemu-nbd does not serve %s: %s" % (image, told))
        open(user(place, domain), "w").close()


def deactivate(uri, domain):
    image, _, place = disk(uri)
    with Locked(os.path.dirname(image)):
        if os.path.exists(user(place, domain)):
            os.remove(user(place, domain))
        if not os.path.isdir(place) or any(name.startswith("user-") for name in os.listdir(place)):
            return
        pid = server(place)
        while pid:
            # A snapshot that was killed may have left it stopped.
            subprocess.call("kill -TERM %d; kill -CONT %d" % (pid, pid), shell=True, stderr=subprocess.DEVNULL)
            time.sleep(0.01)
            pid = server(place)
        shutil.rmtree(place)


def query():
    return {"plugin": "pydir", "name": "Directory", "description": "Disks as files", "vendor": "-", "copyright": "MIT",
            "version": "1.0", "required_api_version": "5.0", "features": ["VDI_ACTIVATE_READONLY"],
            "configuration": {"path": "full path of a directory"}, "required_cluster_stack": []}


METHODS = {
    "plugin.query": query,
    "sr.create": sr_create, "sr.attach": sr_attach, "sr.detach": sr_detach, "sr.destroy": sr_destroy,
    "sr.stat": sr_stat, "sr.ls": sr_ls,
    "sr.set_name": lambda sr, new_name: sr_set(sr, name=new_name),
    "sr.set_description": lambda sr, new_description: sr_set(sr, description=new_description),
    "volume.create": volume_create, "volume.stat": volume_stat, "volume.destroy": volume_destroy,
    "volume.snapshot": lambda sr, key: copy(sr, key, False), "volume.clone": lambda sr, key: copy(sr, key, True),
    "volume.resize": volume_resize,
    "volume.set": lambda sr, key, k, v: change(sr, key, lambda it: it["keys"].update({k: v})),
    "volume.unset": lambda sr, key, k: change(sr, key, lambda it: it["keys"].pop(k, None)),
    "volume.set_name": lambda sr, key, new_name: change(sr, key, lambda it: it.update(name=new_name)),
    "volume.set_description": lambda sr, key, new_description:
        change(sr, key, lambda it: it.update(description=new_description)),
    "datapath.attach": attach, "datapath.deactivate": deactivate, "datapath.detach": deactivate,
    "datapath.activate": lambda uri, domain: activate(uri, domain, False),
    "datapath.activate_readonly": lambda uri, domain: activate(uri, domain, True),
}


def main():
    method = os.path.basename(sys.argv[0]).lower()
    request = sys.stdin.read()
    try:
        parameters = json.loads(request)
        parameters.pop("dbg")
        answer, status = METHODS[method](**parameters), 0
    except Exception as error:  # pylint: disable=broad-except
        number = error.number if isinstance(error, Failed) else 202
        answer = {"code": "SR_BACKEND_FAILURE_%d" % number, "params": ["", str(error), ""],
                  "backtrace": {"error": repr(error), "files": [], "lines": []}}
        status = 1
    sys.stdout.write(json.dumps(answer))
    return status


if __name__ == "__main__":
    sys.exit(main())
