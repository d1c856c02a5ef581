# One FLUX.2 image through RunAPI: create, wait, save. Ruby 2.7 or later, nothing to install.
require "json"
require "net/http"
require "securerandom"
require "time"

BASE_URL = ENV.fetch("RUNAPI_BASE_URL", "@BASE_URL@").chomp("/")
API_KEY = ENV.fetch("RUNAPI_API_KEY")
TASKS = "#{BASE_URL}/api/v1/flux_2/@ACTION@"
BODY = @BODY@
BODY[:prompt] = ARGV[0] if ARGV[0]

# One key for one image: sent again, it brings the same task. Keep it with your order before the first call.
KEY = ENV.fetch("IDEMPOTENCY_KEY") { SecureRandom.uuid }
DEADLINE = Time.now + Float(ENV.fetch("WAIT_SECONDS", "900"))
RETRYABLE = [@STATUSES@]
NO_ANSWER = [SystemCallError, SocketError, IOError, Timeout::Error, OpenSSL::SSL::SSLError,
             Net::ProtocolError, Net::HTTPBadResponse]

# Sleep, unless there is no time left for it.
def pause(seconds)
  abort "Not done in time. It is paid once: go on with IDEMPOTENCY_KEY=#{KEY}" if Time.now + seconds > DEADLINE
  sleep seconds
end

# Seconds that RunAPI asks to wait (a number or an HTTP date), never none at all; nil where it does not ask.
def retry_after(answer)
  value = answer["Retry-After"]
  return if value.nil?

  seconds = value.match?(/\A\d+(\.\d+)?\z/) ? value.to_f : Time.httpdate(value) - Time.now
  [0.5, seconds].max
rescue ArgumentError
  nil
end

def send_request(request)
  options = { use_ssl: request.uri.scheme == "https", open_timeout: 10, read_timeout: 60, max_retries: 0 }
  Net::HTTP.start(request.uri.host, request.uri.port, options) { |http| http.request(request) }
end

# The task that RunAPI answers and the seconds it asks to wait. Tried again while RunAPI is busy or out of reach.
def call(request)
  request["Authorization"] = "Bearer #{API_KEY}"
  request["Content-Type"] = "application/json"
  (0..).each do |attempt|
    wait = nil
    begin
      answer = send_request(request)
      wait = retry_after(answer)
      return [JSON.parse(answer.body), wait] if answer.is_a?(Net::HTTPSuccess)

      abort "RunAPI answered #{answer.code}: #{answer.body[0, 500]}" unless RETRYABLE.include?(answer.code.to_i)
    rescue *NO_ANSWER, JSON::ParserError
      # No answer, or none of RunAPI's: the task may exist, and the key will find it.
    end
    pause(wait || [30, 2**attempt].min * rand(0.5..1.0))
  end
end

def create(body)
  request = Net::HTTP::Post.new(URI(TASKS), "Idempotency-Key" => KEY) # without it, never send a create call twice
  request.body = JSON.generate(body)
  call(request)
end

# The image as a file in the current folder; nil where its URL does not give it (any more).
def save(url)
  answer = send_request(Net::HTTP::Get.new(URI(url))) # another host: never send it the key
  kind = answer.content_type.to_s[%r{\Aimage/(png|jpeg|webp)\z}, 1]
  return unless answer.is_a?(Net::HTTPSuccess) && kind

  File.binwrite("flux-2.#{kind}", answer.body)
  "flux-2.#{kind}"
rescue *NO_ANSWER
  nil
end

task, wait = create(BODY)
loop do
  abort "The task failed and was not charged: #{task["error"]}" if task["status"] == "failed"
  # URLs die within @DAYS@ days, so save at once. One that is dead already: asking again brings a fresh one.
  name = save(task["images"][0]["url"]) if task["status"] == "completed"
  break puts(name) if name

  pause(wait || 2)
  task, wait = call(Net::HTTP::Get.new(URI("#{TASKS}/#{task["id"]}")))
end
