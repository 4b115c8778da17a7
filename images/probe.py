"""Run by every Python found in an image: prints one line of JSON about it. Any Python 3 can read this file."""

import json
import os
import sys
import sysconfig


def kernelspecs():
    home = os.path.expanduser("~")
    folders = ["/usr/share/jupyter", "/usr/local/share/jupyter", os.path.join(sys.prefix, "share", "jupyter")]
    folders += ["/opt/conda/share/jupyter", os.path.join(home, ".local", "share", "jupyter")]
    folders += [folder for folder in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if folder]
    found = {}
    for folder in folders:
        kernels = os.path.join(folder, "kernels")
        for name in sorted(os.listdir(kernels)) if os.path.isdir(kernels) else []:
            resource_dir = os.path.join(kernels, name)
            try:
                with open(os.path.join(resource_dir, "kernel.json"), encoding="utf-8") as file:
                    spec = json.load(file)
                found[name.lower()] = {
                    "name": name.lower(),
                    "resource_dir": resource_dir,
                    "argv": [str(part) for part in spec.get("argv", [])],
                    "display_name": str(spec.get("display_name", name)),
                    "language": str(spec.get("language", "")),
                    "interrupt_mode": str(spec.get("interrupt_mode", "signal")),
                    "metadata": dict(spec.get("metadata", {})),
                    "env": {str(key): str(value) for key, value in spec.get("env", {}).items()},
                }
            except (OSError, ValueError, AttributeError, TypeError):
                continue
    return list(found.values())


def main():
    facts = {"python": sys.executable, "version": list(sys.version_info[:3]), "kernelspecs": kernelspecs()}
    facts.update({"ipykernel": None, "curve": False, "pip": False})
    facts["libc"] = "musl" if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "") else "glibc"
    try:
        import ipykernel
        from ipykernel.kernelapp import IPKernelApp

        facts["ipykernel"] = ipykernel.__version__
        facts["curve"] = "curve_secretkey" in IPKernelApp.class_traits()
    except Exception:
        pass
    try:
        import pip  # noqa: F401

        facts["pip"] = True
    except Exception:
        pass
    print("docker-kernel-probe:python " + json.dumps(facts))


main()
