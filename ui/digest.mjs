// Notes in the built extension what it was built from, so that a test without npm sees whether it is up to date.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ui = dirname(fileURLToPath(import.meta.url));
const files = [
  'package.json',
  'package-lock.json',
  'rspack.config.js',
  'tsconfig.json'
];
for (const folder of ['schema', 'src', 'style']) {
  for (const name of readdirSync(join(ui, folder), { recursive: true })) {
    if (/\.(ts|tsx|css|json)$/.test(name)) {
      files.push(`${folder}/${name}`);
    }
  }
}
const digest = createHash('sha256');
for (const file of files.sort()) {
  digest
    .update(`${file}\0`)
    .update(readFileSync(join(ui, file)))
    .update('\0');
}
writeFileSync(
  join(ui, '../docker_kernel/labextension/source.sha256'),
  `${digest.digest('hex')}\n`
);
