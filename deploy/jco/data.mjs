// Gives a component under `jco serve` the folder of the environment variable DATA_FOLDER as /data.
import { _setPreopens, types } from "@bytecodealliance/preview2-shim/filesystem";

_setPreopens({ "/data": process.env.DATA_FOLDER });

// jco 1.35 refuses every open with the flag mutate-directory, which wasi-libc sets for every file.
const { openAt } = types.Descriptor.prototype;
types.Descriptor.prototype.openAt = function (pathFlags, path, openFlags, flags) {
  return openAt.call(this, pathFlags, path, openFlags, { ...flags, mutateDirectory: false });
};
