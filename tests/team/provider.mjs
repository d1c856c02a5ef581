// A real OpenID provider on loopback: node-oidc-provider with its own pages. Anybody signs in by any name.
// node provider.mjs MODULES PORT KEY PEOPLE: prints its issuer. KEY names the signing key; PEOPLE is a file that maps names to groups.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port, kid, people] = process.argv.slice(2);
const { Provider, errors } = await import(pathToFileURL(join(modules, 'oidc-provider', 'lib', 'index.js')));
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' }] },
    scopes: ['openid', 'offline_access', 'flux2'],
    cookies: { keys: ['for tests alone'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (_, token) => ({
      name: token.accountId, groups: JSON.parse(readFileSync(people))[token.accountId] ?? [],
    }),
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => {
          if (!resource.endsWith('/mcp')) throw new errors.InvalidTarget();
          return { scope: 'flux2', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } };
        },
      },
    },
  });
  answer = provider.callback();
  console.log(issuer);
});
