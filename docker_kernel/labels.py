"""The labels by which everything of ours is found on an engine, and nothing else is touched."""

PREFIX = "io.docker-kernel."

KIND = PREFIX + "kind"
"""What an object is: one of the KIND_ values below."""

KIND_KERNEL = "kernel"
SPARE = PREFIX + "spare"
"""On a kernel container that was made before a kernel was asked for: the digest of the starts that it fits. On all
others it is empty, whatever their image's labels say."""

SPARE_NAME = "docker-kernel-spare-"
"""What the name of a spare begins with as long as it waits."""

CLAIMED_NAME = "docker-kernel-claimed-"
"""What the name of a spare begins with from its claim on, until it has its kernel's name. All who are after it ask for
this one name: the engine gives it to one of them (a rename looks the old name up before it takes the new one, so that
renames to several names would all succeed; moby 20.10, daemon/rename.go)."""

KERNEL_NAME = "docker-kernel-"
"""What the name of a kernel's container begins with; the kernel's id follows."""

KIND_JOB = "job"
JOB_NAME = "docker-kernel-job-"
"""What the name of a job's container begins with; the job's id and the number of its attempt follow, and with several
replicas the rank, or "spare-" where it waits for a job."""

KIND_NETWORK = "network"
"""The network of a job's replicas."""

KIND_STATE = "state"
"""A container that never runs: it keeps a kernel volume for jobs that have yet to start."""

STATE_NAME = "docker-kernel-state-"
"""What the name of a KIND_STATE container begins with; the dispatch's id follows."""

KIND_VOLUME = "kernel-volume"
KIND_IMAGE = "kernel-image"
KIND_ENVIRONMENT = "environment"
KIND_JOB_IMAGE = "job-image"
KIND_BUILD = "build"
BUILD_NAME = "docker-kernel-build-"
"""What the name of a container begins with that its maker removes at once."""

KIND_NOTEBOOK_IMAGE = "notebook-image"
KERNEL_ID = PREFIX + "kernel-id"
JOB_ID = PREFIX + "job-id"
MAKER = PREFIX + "maker"
"""On what is of use only to the process that made it, if it never started: that process (kernel/makers.py)."""

SPEC = PREFIX + "spec"
USER = PREFIX + "user"
NOTEBOOK = PREFIX + "notebook"
CONNECTION_FILE = PREFIX + "connection-file"
BUILD = PREFIX + "build"
"""On the stages of an image's build, and on the containers of their steps: the build's id."""

PYTHON = PREFIX + "python"
HOME = PREFIX + "home"
"""Of a kernel's container: HOME in it, below which some is the user's own and no part of an environment."""

RECIPE = PREFIX + "recipe"
"""On an image we built: the digest of what it was built from, so that the same is not built twice."""

SAVED = PREFIX + "saved"
"""On an image that a user saved a running kernel's environment as: theirs to remove."""

NOTEBOOK_IMAGE = PREFIX + "notebook."
"""What the labels of a notebook image begin with: contract, path, digest, parameters, kernel, built-by, lock."""
