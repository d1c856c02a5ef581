<?php
// One FLUX.2 image through RunAPI: create, wait, save. PHP 8.1 or later with the curl extension.
declare(strict_types=1);

$baseUrl = rtrim(getenv('RUNAPI_BASE_URL') ?: '@BASE_URL@', '/');
$apiKey = getenv('RUNAPI_API_KEY') ?: fail('Set RUNAPI_API_KEY to your key.');
$tasks = "$baseUrl/api/v1/flux_2/@ACTION@";
$body = @BODY@;
$body['prompt'] = $argv[1] ?? $body['prompt'];

// One key for one image: sent again, it brings the same task. Keep it with your order before the first call.
$key = getenv('IDEMPOTENCY_KEY') ?: bin2hex(random_bytes(16));
$deadline = microtime(true) + (float) (getenv('WAIT_SECONDS') ?: 900);
const RETRYABLE = [@STATUSES@];

function fail(string $message): never
{
    fwrite(STDERR, "$message\n");
    exit(1);
}

/** Sleep, unless there is no time left for it. */
function pause(float $seconds): void
{
    global $deadline, $key;
    if (microtime(true) + $seconds > $deadline) {
        fail("Not done in time. It is paid once: go on with IDEMPOTENCY_KEY=$key");
    }
    usleep((int) ($seconds * 1e6));
}

/** One request: status (0: no answer), headers with lower-case names, body. */
function send(string $url, array $options = []): array
{
    $headers = [];
    $curl = curl_init($url);
    curl_setopt_array($curl, $options + [
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 60,
        CURLOPT_HEADERFUNCTION => function ($curl, string $line) use (&$headers): int {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $headers[strtolower($name)] = trim($value);
            return strlen($line);
        },
    ]);
    $content = curl_exec($curl);
    return [$content === false ? 0 : curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $headers, (string) $content];
}

/** Seconds that RunAPI asks to wait (a number or an HTTP date), never none at all; null where it does not ask. */
function retryAfter(array $headers): ?float
{
    $value = $headers['retry-after'] ?? '';
    if (is_numeric($value)) {
        return max(0.5, (float) $value);
    }
    $at = $value === '' ? false : strtotime($value);
    return $at === false ? null : max(0.5, $at - microtime(true));
}

/** The task that RunAPI answers and the seconds it asks to wait. Tried again while RunAPI is busy or out of reach. */
function call(string $url, ?array $create = null): array
{
    global $apiKey, $key;
    $headers = ["Authorization: Bearer $apiKey", 'Content-Type: application/json'];
    $options = [];
    if ($create !== null) {
        $headers[] = "Idempotency-Key: $key"; // without it, a create call must never be sent twice
        $options[CURLOPT_POSTFIELDS] = json_encode($create, JSON_THROW_ON_ERROR);
    }
    for ($attempt = 0; ; $attempt++) {
        [$status, $found, $content] = send($url, $options + [CURLOPT_HTTPHEADER => $headers]);
        $task = json_decode($content, true);
        if ($status >= 200 && $status < 300 && isset($task['id'])) {
            return [$task, retryAfter($found)];
        }
        // No answer, or none of RunAPI's: the task may exist, and the key will find it.
        if ($status >= 300 && !in_array($status, RETRYABLE, true)) {
            fail("RunAPI answered $status: " . substr($content, 0, 500));
        }
        pause(retryAfter($found) ?? min(30, 2 ** $attempt) * (0.5 + mt_rand() / mt_getrandmax() / 2));
    }
}

/** The image as a file in the current folder; null where its URL does not give it (any more). */
function save(string $url): ?string
{
    [$status, $headers, $content] = send($url); // another host: never send it the key
    if ($status !== 200 || !preg_match('#^image/(png|jpeg|webp)$#', $headers['content-type'] ?? '', $kind)) {
        return null;
    }
    file_put_contents("flux-2.$kind[1]", $content);
    return "flux-2.$kind[1]";
}

[$task, $wait] = call($tasks, $body);
while (true) {
    $status = $task['status'] ?? 'pending';
    if ($status === 'failed') {
        fail('The task failed and was not charged: ' . ($task['error'] ?? ''));
    }
    // URLs die within @DAYS@ days, so save at once. One that is dead already: asking again brings a fresh one.
    if ($status === 'completed' && ($name = save($task['images'][0]['url'])) !== null) {
        echo "$name\n";
        break;
    }
    pause($wait ?? 2.0);
    [$task, $wait] = call("$tasks/{$task['id']}");
}
