import path from 'node:path';
import { fileURLToPath } from 'node:url';

// The packages are installed one folder above.
const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

export default { turbopack: { root }, outputFileTracingRoot: root };
