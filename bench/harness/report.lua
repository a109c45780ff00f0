-- After "--" may stand a URL: it is what a forward proxy is asked for, in absolute form. The request is made once.
init = function(arguments)
  local asked = arguments[1]
  if asked then
    wrk.path = asked
    wrk.headers["Host"] = asked:match("^http://([^/]+)")
  end
end

-- wrk calls this once, at the end; nothing runs per request.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n@{"requests":%d,"bytes":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect, e.read, e.write, e.timeout))
end
