"""How arrays, tensors and frames are pickled: views as views, many texts in a faster form, shared memory as shared."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import weakref
from collections import defaultdict
from typing import Any, NamedTuple

from docker_kernel.guest import blob_files

MANY_OBJECTS = 1000
"""From as many elements, an array of texts is stored in a faster form than a list of them."""


def memory_owner(array: Any) -> Any:
    """The last of the arrays whose memory an array shows: of its own type, as others may be no more than a view."""
    owner, base = array, array.base
    while base is not None and any(one.__name__ == "ndarray" for one in type(base).__mro__):
        if type(base) is type(array):
            owner = base
        base = base.base
    return owner


def is_plain_array(kind: Any) -> bool:
    """Whether a child of numpy's array leaves it to that how its arrays are pickled, which forgets their attributes."""
    array: Any = sys.modules["numpy"].ndarray
    return all(getattr(kind, name) is getattr(array, name) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))


def make_array(array: Any, kind: Any) -> Any:
    return array.view(kind)


def fill_array(array: Any, attributes: dict[str, Any] | None) -> None:
    if attributes:
        array.__dict__.update(attributes)


def reduce_view(view: Any, owner: Any) -> Any:
    offset = view.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return _make_view, (owner, offset, view.shape, view.strides, view.dtype, view.flags.writeable)


def _make_view(owner: Any, offset: int, shape: Any, strides: Any, dtype: Any, writeable: bool) -> Any:
    numpy = importlib.import_module("numpy")
    view: Any = numpy.ndarray(shape, dtype, owner.ravel(order="K"), offset, strides)
    if not writeable:
        view.flags.writeable = False
    return view


class _Texts(NamedTuple):
    """An array of texts, as it was captured last."""

    owner: weakref.ref[Any]
    elements: Any
    content: blob_files.Content


texts: dict[tuple[int, int], _Texts] = {}
"""By the address and the number of their elements. They go when the memory goes that they are about."""


def packed_texts(numpy: Any, array: Any, owner: Any, blobs: blob_files.Blobs | None) -> blob_files.Content | None:
    """The content of an array of texts and other simple immutable values; None for other arrays.

    An array that has the very same elements as when it was last captured, which were kept since, has the same content.
    """
    flat = array.ravel("F" if array.flags.fnc else "C")
    key = (array.__array_interface__["data"][0], array.size)
    known = texts.get(key)
    if known is not None and (_pointers(numpy, flat) == _pointers(numpy, known.elements)).all():
        digest = known.content.digest
        if not digest or blobs is None or blobs.has(digest, known.content.size):
            return known.content
    data = _pack_texts(numpy, flat.tolist())
    if data is None:
        return None
    content = blob_files.Content(memoryview(data), settled=True)
    try:
        owner = weakref.ref(owner, lambda _: texts.pop(key, None))
    except TypeError:
        return content
    texts[key] = _Texts(owner, flat.copy(), content)
    return content


class _Pointers:
    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {**array.__array_interface__, "typestr": "u%d" % array.itemsize, "descr": []}
        self.array = array


def _pointers(numpy: Any, array: Any) -> Any:
    """The addresses of an array's elements, as an array."""
    return numpy.asarray(_Pointers(array))


_SIMPLE = frozenset({str, bytes, int, float, bool, type(None)})


def _pack_texts(numpy: Any, values: list[Any]) -> bytes | None:
    kinds = set(map(type, values))
    missing = getattr(sys.modules.get("pandas"), "NA", None)
    if str not in kinds or not kinds - {type(missing)} <= _SIMPLE:
        return None
    packed: tuple[list[Any], bytes | None, str] = (values, None, "")
    sample = values[:: len(values) // MANY_OBJECTS]
    if kinds <= {str, float, type(None), type(missing)} and len(set(sample)) < len(sample) // 2:
        codes: defaultdict[Any, int] = defaultdict()
        codes.default_factory = codes.__len__
        array = numpy.fromiter(map(codes.__getitem__, values), "u4", len(values))
        # 0.0 and -0.0 would be one.
        if len(codes) < len(values) // 2 and all(value != value for value in codes if type(value) is float):
            kind = "u1" if len(codes) <= 1 << 8 else "u2" if len(codes) <= 1 << 16 else "u4"
            packed = (list(codes), array.astype(kind).tobytes(), kind)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5)
    pickler.fast = True  # No memo, which takes most of the time, for what is flat.
    pickler.dump(packed)
    return file.getvalue()


def make_texts(data: Any, shape: tuple[int, ...], order: str) -> Any:
    numpy = importlib.import_module("numpy")
    values, codes, kind = pickle.loads(data)
    array: Any = numpy.empty(len(values), object)
    array[:] = values
    if codes is not None:
        array = array[numpy.frombuffer(codes, kind)]
    return array.reshape(shape, order=order)


def make_sharing(make: Any, arguments: tuple[Any, ...], sharing: Any, part: str, add: str) -> Any:
    made = make(*arguments)
    if getattr(made, part, None) is not sharing:
        setattr(made, part, sharing)
        getattr(sharing, add)(made)
    return made


def make_typed_storage(storage: Any, dtype: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def make_storage(data: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.frombuffer(bytearray(data) if type(data) is bytes else data, dtype=torch.uint8).untyped_storage()
