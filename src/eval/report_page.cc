#include "eval/report_page.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/sha256.h"

namespace vertebra {
namespace {

constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--page:#f6f6f3;--card:#fff;--line:#e3e3dd;--text:#1b1f24;--soft:#646b75;
--c1:#2563eb;--c2:#d9480f;--c3:#0f8a5f;--c4:#8b3fc7;--good:#0f7a4f;--good-back:#e2f4ea;--bad:#b3261e;
--bad-back:#fbe6e4;--bar:#e9eaee}
@media (prefers-color-scheme:dark){:root{--page:#13151a;--card:#1b1e25;--line:#2d323c;--text:#e7e9ed;
--soft:#9aa3b0;--c1:#7aa7ff;--c2:#ff9d5c;--c3:#4fd09b;--c4:#c99bff;--good:#5fdb9f;--good-back:#16352a;
--bad:#ff8f87;--bad-back:#42201e;--bar:#2a2f39}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans",sans-serif;-webkit-text-size-adjust:100%;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:32px 24px 64px}
header{display:flex;flex-wrap:wrap;align-items:center;gap:8px 16px;margin-bottom:20px}
h1{font-size:28px;line-height:1.2;margin:0;letter-spacing:-.02em}
h2{font-size:19px;margin:40px 0 12px;letter-spacing:-.01em}h3{font-size:15px;margin:0 0 10px}
p{margin:0 0 10px}a{color:var(--c1)}.soft,.unit,.note,.legend{color:var(--soft)}
.badge{display:inline-block;border-radius:99px;padding:2px 12px;font-weight:600;font-size:13px;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.badge.good{background:var(--good-back)}
.badge.bad{background:var(--bad-back)}.badge.plain{background:var(--bar);color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px;margin:0 0 16px}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:12px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 16px}
.tile b{display:block;font-size:23px;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}
.chart{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px 10px;
min-width:0}
figcaption{display:flex;flex-wrap:wrap;gap:0 8px;align-items:baseline}.unit{font-size:13px}
.note{font-size:13px;min-height:1.5em;margin:0 0 10px}
.legend{margin-left:auto;font-size:12.5px;display:flex;flex-wrap:wrap;gap:0 12px}
.key{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle}
.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}.k4{background:var(--c4)}
.area{display:grid;grid-template-columns:46px minmax(0,1fr);grid-template-rows:210px 20px 18px;font-size:12px;
color:var(--soft);font-variant-numeric:tabular-nums;padding-right:10px}
.ys{position:relative}.ys span{position:absolute;right:8px;transform:translateY(-50%);white-space:nowrap}
.xs{position:relative;grid-column:2}
.xs span{position:absolute;top:4px;transform:translateX(-50%);white-space:nowrap}
.xname{grid-column:2;text-align:right}.plot{position:relative;touch-action:pan-y}
svg{position:absolute;inset:0;width:100%;height:100%;display:block;overflow:hidden}
svg path{fill:none;vector-effect:non-scaling-stroke;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
svg .grid{stroke:var(--line);stroke-width:1}svg .c1{stroke:var(--c1)}svg .c2{stroke:var(--c2)}
svg .c3{stroke:var(--c3)}svg .c4{stroke:var(--c4)}svg .faint{stroke-width:1}svg .dot{stroke-width:6}
.faint{opacity:.38}
.rule{position:absolute;top:0;bottom:0;width:1px;background:var(--soft);pointer-events:none}
.tip{position:absolute;top:4px;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:5px 9px;color:var(--text);pointer-events:none;white-space:nowrap;z-index:1;box-shadow:0 2px 8px #0003}
[hidden]{display:none!important}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:13px;text-align:left}
td,th{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>td{border-bottom:0}td.n,th.n{text-align:right;white-space:nowrap}
td:last-child,th:last-child{padding-right:0}.wide{overflow-x:auto}.names td{overflow-wrap:normal}.sublist{margin:10px 0 2px;font-size:13px}
.score{display:grid;grid-template-columns:minmax(90px,220px) minmax(60px,1fr) 62px minmax(120px,190px);
gap:2px 14px;align-items:center;padding:5px 0}
.score .name{font-weight:600}.score .n{text-align:right;font-variant-numeric:tabular-nums}
.score .soft{font-size:13px;font-variant-numeric:tabular-nums}
.bar{height:10px;border-radius:5px;background:var(--bar);overflow:hidden;position:relative}
.bar i{display:block;height:100%;border-radius:5px;background:var(--c1)}
.sub .name{font-weight:400;font-size:13.5px;padding-left:12px}.sub .bar{height:6px}
details{margin:4px 0}summary{cursor:pointer;color:var(--soft);font-size:13.5px;padding:3px 0}
pre,.text{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;margin:0}
pre{overflow-x:auto;tab-size:4}.text{white-space:pre-wrap;unicode-bidi:isolate}
.sample td:first-child{width:76px;white-space:nowrap;color:var(--soft)}
dl{display:grid;grid-template-columns:minmax(120px,max-content) 1fr;gap:2px 16px;margin:6px 0;font-size:13.5px}
dt{color:var(--soft)}dd{margin:0}footer{color:var(--soft);font-size:13px;margin-top:40px}
@media (max-width:820px){.charts{grid-template-columns:minmax(0,1fr)}.tiles{grid-template-columns:1fr 1fr}}
@media (max-width:560px){main{padding:20px 14px 40px}h1{font-size:23px}.card,.chart{padding:12px 13px}
.tiles{gap:10px}.tile{padding:10px 12px}.tile b{font-size:19px}
.area{grid-template-columns:38px minmax(0,1fr);grid-template-rows:180px 20px 18px}
.score{grid-template-columns:1fr 62px}.score .name{grid-row:1}.score .n{grid-row:1;grid-column:2}
.score .bar{grid-column:1/3}.score .soft{grid-column:1/3}.legend{margin-left:0;width:100%}
td,th{padding-right:9px}.sample td:first-child{width:58px}.narrow-off{display:none}dl{grid-template-columns:1fr}
dd{margin-bottom:6px}}
@media print{body{background:#fff}.card,.chart,.tile{break-inside:avoid}}
)css";

// Reads data-chart of every plot; shows the values next to the pointer. Text goes in as textContent only.
constexpr std::string_view kScript = R"js(
for (const plot of document.querySelectorAll('.plot')) {
  const data = JSON.parse(plot.dataset.chart);
  const make = (name) => {
    const e = document.createElement('div');
    e.className = name; e.hidden = true; plot.append(e); return e;
  };
  const rule = make('rule'), tip = make('tip');
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
  };
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const x = data.low + share * (data.high - data.low);
    const densest = data.series.reduce((a, b) => b.points.length > a.points.length ? b : a);
    const at = nearest(densest.points, x)[0];
    tip.replaceChildren();
    const head = document.createElement('b');
    head.textContent = data.x + ' ' + at.toLocaleString('en');
    tip.append(head);
    for (const series of data.series) {
      const line = document.createElement('div'), key = document.createElement('i');
      key.className = 'key k' + series.color;
      const point = nearest(series.points, at);
      line.append(key, series.name + ' ' + Number(point[1].toPrecision(4)).toLocaleString('en',
        {maximumSignificantDigits: 4}));
      if (Math.abs(point[0] - at) > 0.01 * (data.high - data.low)) {
        line.append(' (' + data.x + ' ' + point[0].toLocaleString('en') + ')');
      }
      tip.append(line);
    }
    const left = (at - data.low) / (data.high - data.low);
    rule.hidden = tip.hidden = false;
    rule.style.left = 100 * left + '%';
    const width = tip.offsetWidth, at_px = left * box.width;
    const right_of = at_px + 8 + width <= box.width ? at_px + 8 : at_px - 8 - width;
    tip.style.left = Math.max(-30, right_of) + 'px';
  });
  plot.addEventListener('pointerleave', () => { rule.hidden = tip.hidden = true; });
}
)js";

// Base64 of the SHA-256 of a text, as a content security policy names a script.
std::string script_hash(std::string_view script) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::string hex = sha256_hex(script);
  std::string bits, out;
  for (const char c : hex) bits += fmt::format("{:04b}", c <= '9' ? c - '0' : c - 'a' + 10);
  for (size_t i = 0; i < bits.size(); i += 6) {
    std::string six = bits.substr(i, 6);
    six.resize(6, '0');
    out += kDigits[std::stoul(six, nullptr, 2)];
  }
  while (out.size() % 4 != 0) out += '=';
  return out;
}

}  // namespace

std::string escape_html(std::string_view text) {
  // Through JSON and back: broken UTF-8 becomes U+FFFD.
  const auto clean = parse_json(json_line(Json(std::string(text))), "text").get<std::string>();
  std::string out;
  out.reserve(clean.size());
  for (const char c : clean) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
          out += "\xEF\xBF\xBD";
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string escape_path(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  // "//host/x" and "/x" would leave the folder.
  return "./" + out.substr(std::min(out.find_first_not_of('/'), out.size()));
}

std::string shorten(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + " \xE2\x80\xA6";
}

std::string format_count(double value) {
  std::string digits = fmt::format("{:.0f}", std::abs(value));
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return (value <= -0.5 ? "-" : "") + digits;
}

std::string format_number(double value, int digits) {
  if (value == 0) return "0";
  if (std::abs(value) >= 1000 && std::abs(value) < 1e12) return format_count(value);
  return fmt::format("{:.{}g}", value, digits);
}

std::string format_compact(double value) {
  constexpr std::array<std::pair<double, const char*>, 4> kUnits = {
      {{1e12, " T"}, {1e9, " G"}, {1e6, " M"}, {1e3, " k"}}};
  if (std::abs(value) >= 1e15) return fmt::format("{:.3g}", value);
  for (const auto& [size, name] : kUnits) {
    if (std::abs(value) >= 0.9995 * size) return fmt::format("{:.4g}{}", value / size, name);
  }
  return fmt::format("{:.4g}", value);
}

std::string format_percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::optional<double> number_of(const Json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number()) return std::nullopt;
  const auto value = it->get<double>();
  return std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

std::string text_of(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

std::string html_page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:; base-uri 'none'; "
      "form-action 'none'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{}</title>\n<style>{}</style></head>\n<body><main>\n{}</main>\n<script>{}</script></body></"
      "html>\n",
      script_hash(kScript), escape_html(title), kStyle, body, kScript);
}

}  // namespace vertebra
