/* SPDX-License-Identifier: MIT */
/* Text from guests and scripts, made harmless for JSON, XML and terminals. */
#include "report/text.h"

#include <string.h>
#include <wchar.h>

#include "base/str.h"

#define REPLACEMENT "\xef\xbf\xbd"

/* Decodes one character of at most len bytes. Returns its length, 0 if it is no UTF-8 (Unicode,
 * table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF). */
static size_t decode(const char *s, size_t len, uint32_t *ret)
{
	const unsigned char *p = (const unsigned char *)s;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n;
	uint32_t c;

	if (p[0] < 0x80) {
		*ret = p[0];
		return 1;
	}
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (n > len)
		return 0;
	c = p[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[n] || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
		return 0;
	*ret = c;
	return n;
}

json_t *text_jsonn(const char *s, size_t len)
{
	json_t *j = json_stringn(s, len);
	struct buf b = {};
	size_t i = 0;

	if (j)
		return j;
	while (i < len) {
		uint32_t c;
		size_t n = decode(s + i, len - i, &c);

		if (n)
			buf_append(&b, s + i, n);
		else
			buf_puts(&b, REPLACEMENT);
		i += n ? n : 1;
	}
	j = json_stringn(buf_str(&b), b.len);
	buf_done(&b);
	return j;
}

json_t *text_json(const char *s)
{
	return s ? text_jsonn(s, strlen(s)) : json_string("");
}

/* XML 1.0, section 2.2: what a document may contain at all. */
static bool xml_allows(uint32_t c)
{
	return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c <= 0xd7ff) ||
	       (c >= 0xe000 && c <= 0xfffd) || c >= 0x10000;
}

void text_append_xml(struct buf *b, const char *s, bool attribute)
{
	size_t len = s ? strlen(s) : 0, i = 0;

	while (i < len) {
		uint32_t c = 0;
		size_t n = decode(s + i, len - i, &c);

		if (!n || !xml_allows(c))
			buf_puts(b, REPLACEMENT);
		else if (c == '<')
			buf_puts(b, "&lt;");
		else if (c == '>')
			buf_puts(b, "&gt;");
		else if (c == '&')
			buf_puts(b, "&amp;");
		else if (c == '"')
			buf_puts(b, "&quot;");
		else if (attribute && c == '\n') /* else read back as a blank */
			buf_puts(b, "&#10;");
		else if (c == '\r')
			buf_puts(b, "&#13;");
		else if (attribute && c == '\t')
			buf_puts(b, "&#9;");
		else
			buf_append(b, s + i, n);
		i += n ? n : 1;
	}
}

/* Length of the escape sequence at s (ECMA-48): CSI …, OSC … BEL/ST, others of two or three bytes.
 */
static size_t escape_length(const char *s, size_t len)
{
	size_t i = 2;

	if (len < 2)
		return len;
	if (s[1] == '[') {
		while (i < len && (unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x40)
			i++;
		return MIN(i + 1, len);
	}
	if (strchr("]PX^_", s[1])) {
		for (; i < len && s[i] != '\a' && s[i] != '\n'; i++)
			if (s[i] == '\033')
				return MIN(i + 2, len);
		return i < len && s[i] == '\a' ? i + 1 : i;
	}
	if (strchr("()*+-./#% ", s[1]))
		return MIN((size_t)3, len);
	return 2;
}

void text_append_plain(struct buf *b, const char *s, size_t len)
{
	size_t i = 0;

	while (i < len) {
		uint32_t c = 0;
		size_t n = decode(s + i, len - i, &c);

		if (s[i] == '\033') {
			i += escape_length(s + i, len - i);
			continue;
		}
		if (n && c == '\r') {
			i++; /* the end of a line, or an animation */
			continue;
		}
		/* C1 controls are escape sequences to some terminals. */
		if (!n || (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0))
			buf_puts(b, REPLACEMENT);
		else
			buf_append(b, s + i, n);
		i += n ? n : 1;
	}
}

char *text_plain(const char *s)
{
	struct buf b = {};

	text_append_plain(&b, s ? s : "", s ? strlen(s) : 0);
	return buf_steal(&b, NULL);
}

/* Zero for what combines with the character before, two for wide ones. */
static size_t character_columns(uint32_t c)
{
	int w = wcwidth((wchar_t)c);

	return w < 0 ? 1 : (size_t)w;
}

size_t text_fit(const char *s, size_t columns)
{
	size_t len = strlen(s), i = 0, used = 0;

	while (i < len) {
		uint32_t c = ' ';
		size_t n = decode(s + i, len - i, &c);

		used += n ? character_columns(c) : 1;
		if (used > columns)
			break;
		i += n ? n : 1;
	}
	return i;
}

size_t text_columns(const char *s)
{
	size_t len = strlen(s), i = 0, used = 0;

	while (i < len) {
		uint32_t c = ' ';
		size_t n = decode(s + i, len - i, &c);

		used += n ? character_columns(c) : 1;
		i += n ? n : 1;
	}
	return used;
}

const char *text_last_lines(const char *s, unsigned n)
{
	size_t i = strlen(s);

	if (i > 0 && s[i - 1] == '\n')
		i--;
	while (i > 0) {
		if (s[i - 1] == '\n' && --n == 0)
			break;
		i--;
	}
	return s + i;
}
