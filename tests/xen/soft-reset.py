"""What xenopsd does for a domain that has shut down to be reset softly, as before the second kernel of kdump.

    soft-reset.py DOMID

It is written after `soft_reset` of xen-api's `ocaml/xenopsd/xc/domain.ml`, with Xen's own libraries: the domain loses
its event channels, and gets new ones for its xenstore and its console. Devices are left alone: the second kernel
takes its frontends over by itself.
"""

import ctypes
import sys

# xen/hvm/params.h
STORE_EVTCHN = 2
CONSOLE_EVTCHN = 18

ctrl = ctypes.CDLL("libxenctrl.so.4.17", use_errno=True)
store = ctypes.CDLL("libxenstore.so.4", use_errno=True)
ctrl.xc_interface_open.restype = store.xs_open.restype = store.xs_read.restype = ctypes.c_void_p

domid = int(sys.argv[1])
path = f"/local/domain/{domid}"
xc = ctypes.c_void_p(ctrl.xc_interface_open(None, None, 0))
xs = ctypes.c_void_p(store.xs_open(0))


def done(what, good):
    if not good:
        sys.exit(f"{what}: errno {ctypes.get_errno()}")


def read(key):
    length = ctypes.c_uint()
    value = store.xs_read(xs, 0, f"{path}/{key}".encode(), ctypes.byref(length))
    done(key, value)
    return ctypes.string_at(value, length.value).decode()


def write(key, value):
    value = str(value).encode()
    done(key, store.xs_write(xs, 0, f"{path}/{key}".encode(), value, len(value)))


def remove(key):
    store.xs_rm(xs, 0, f"{path}/{key}".encode())


def channel():
    port = ctrl.xc_evtchn_alloc_unbound(xc, domid, 0)
    done("a channel", port > 0)
    return port


def parameter(number, value):
    done(f"parameter {number}", ctrl.xc_hvm_param_set(xc, domid, number, ctypes.c_uint64(value)) == 0)


done("pause", ctrl.xc_domain_pause(xc, domid) == 0)
done("soft reset", ctrl.xc_domain_soft_reset(xc, domid) == 0)
page = ctypes.c_ulong(int(read("store/ring-ref")))
store_port, console_port = channel(), channel()
done("introduce", store.xs_introduce_domain(xs, domid, page, store_port))
write("store/port", store_port)
write("console/port", console_port)
parameter(STORE_EVTCHN, store_port)
parameter(CONSOLE_EVTCHN, console_port)
for feature in ("suspend", "poweroff", "reboot", "vcpu-hotplug", "balloon"):
    remove(f"control/feature-{feature}")
remove("memory/target")
write("data/updated", 1)
done("unpause", ctrl.xc_domain_unpause(xc, domid) == 0)
