// An agent host that speaks through an SDK for TypeScript. It says what happens line by line, as JSON.
// node typescript_host.mjs MODULES SDK URL CALLBACK CLIENT: CLIENT is what the provider knows of it, or "null": then it registers
// itself. After {"browse": URL} it reads one line: the query with which the browser came back to CALLBACK.
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [modules, sdk, url, callback, known] = process.argv.slice(2);
const load = (...parts) => import(pathToFileURL(join(modules, '@modelcontextprotocol', ...parts)));
const { Client, StreamableHTTPClientTransport, UnauthorizedError } =
  sdk === 'client'
    ? await load('client', 'dist', 'index.mjs')
    : {
        ...(await load('sdk', 'dist', 'esm', 'client', 'index.js')),
        ...(await load('sdk', 'dist', 'esm', 'client', 'streamableHttp.js')),
        ...(await load('sdk', 'dist', 'esm', 'client', 'auth.js')),
      };
const say = (fact) => console.log(JSON.stringify(fact));

const STATE = 'a state of the host';
const kept = { client: JSON.parse(known) ?? undefined };
const authProvider = {
  redirectUrl: callback,
  clientMetadata: {
    client_name: 'agent host',
    redirect_uris: [callback],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  state: () => STATE,
  clientInformation: () => kept.client,
  saveClientInformation: (client) => { kept.client = client; say({ registered: client.client_id }); },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => { kept.tokens = tokens; },
  redirectToAuthorization: (address) => say({ browse: String(address) }),
  saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
  codeVerifier: () => kept.verifier,
  saveDiscoveryState: (found) => { kept.found = found; },
  discoveryState: () => kept.found,
};

const streams = []; // what the server answers to the stream that the first generation opens, and the second does not
async function noted(input, init) {
  const answer = await fetch(input, init);
  if ((init?.method ?? 'GET') !== 'POST' && String(input) === url) streams.push(answer.status);
  return answer;
}

async function connected() {
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider, fetch: noted });
  const client = new Client(
    { name: 'agent host', version: '1' },
    sdk === 'client' ? { versionNegotiation: { mode: 'auto' } } : {},
  );
  try {
    await client.connect(transport);
    return client;
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
  }
  const [line] = await once(createInterface(process.stdin), 'line');
  const query = new URLSearchParams(line);
  if (query.get('state') !== STATE) throw new Error('the state is another one');
  await transport.finishAuth(sdk === 'client' ? query : query.get('code'));
  return connected();
}

let client = await connected();
say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
const made = await client.callTool({ name: 'generate', arguments: { prompt: 'a red fox' } });
say({ made: made.structuredContent });
await client.close();
client = await connected(); // the next session has the token
say({ tasks: (await client.callTool({ name: 'check_task', arguments: {} })).structuredContent.tasks.length });
await client.close();
say({ streams });
process.exit(0);
