// Runs the tests of the module beside it; the arguments are those after `cargo test ... --`.
// How the tests are found, called and captured is wasm-bindgen-test's protocol; it also prints the results.
'use strict';

const { parseArgs } = require('node:util');
const wasm = require('./tests.js');

const flag = { type: 'boolean', default: false };
// Throws on any flag that is not listed: better than to ignore it.
const { values: flags, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: {
    exact: flag,
    ignored: flag,
    'include-ignored': flag,
    nocapture: flag,
    quiet: flag, // `cargo test -q` passes it; there is nothing to leave out
    skip: { type: 'string', multiple: true, default: [] },
  },
});

// A test's export: __wbgt_, `$` if it is ignored, `_`, the crate, `::`, and the name that people use.
const tests = Object.keys(wasm.__wasm)
  .map((symbol) => /^__wbgt_(\$?)_[^:]*::(.+)$/.exec(symbol))
  .filter((match) => match !== null)
  .map(([symbol, ignored, name]) => ({ symbol, ignored: ignored !== '', name }));

const matches = (name) => (filter) => (flags.exact ? name === filter : name.includes(filter));
const selected = tests.filter(
  ({ name, ignored }) =>
    (filters.length === 0 || filters.some(matches(name))) &&
    !flags.skip.some(matches(name)) &&
    (ignored || !flags.ignored),
);
const withIgnored = flags.ignored || flags['include-ignored'];
if (!selected.some(({ ignored }) => withIgnored || !ignored)) {
  console.error(`error: no test to run: ${tests.length} in the file, ${selected.length} selected`);
  process.exit(1);
}

globalThis.__wbgtest_og_console_log = console.log;
globalThis.__wbgtest_og_console_error = console.error;
globalThis.__wbg_test_invoke = (call) => call();

// What tests print is shown with their failure. Kept here too for a run that never comes to show it.
const printed = [];
for (const method of ['debug', 'log', 'info', 'warn', 'error']) {
  const original = console[method];
  console[method] = (...args) => {
    if (flags.nocapture) original(...args);
    else printed.push(args);
    wasm[`__wbgtest_console_${method}`](args);
  };
}

// A test that waits for what never comes leaves Node with nothing to do, and it would exit with 0.
let finished = false;
process.on('exit', () => {
  if (finished) return;
  for (const args of printed) globalThis.__wbgtest_og_console_error(...args);
  globalThis.__wbgtest_og_console_error('error: the run ended before every test had');
  process.exitCode = 1;
});

const context = new wasm.WasmBindgenTestContext(false);
context.include_ignored(withIgnored);
context.filtered_count(tests.length - selected.length);
context.run(selected.map(({ symbol }) => wasm.__wasm[symbol])).then((passed) => {
  finished = true;
  process.exit(passed ? 0 : 1);
});
