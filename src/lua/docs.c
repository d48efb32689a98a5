/* SPDX-License-Identifier: MIT */
/* The editor stub assay.lua and the manual page assay-lua(3), rendered from the table of the API.
 */
#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "lua/script.h"

/* --- the editor stub ---------------------------------------------------------------------------
 */

/* What entries are said to be of: `name` is in front of ':' or '.' in api_docs. */
static const struct {
	const char *name, *class, *variable, *text;
} classes[] = {
	{"machine", "assay.Machine", "Machine", "A machine of the file or group."},
	{"process", "assay.Process", "Process", "A command started by `m:spawn()`."},
	{"condition", "assay.Condition", "Condition", "What `polling_condition()` makes."},
	{"network", "assay.Network", "Network", "A network between machines."},
	{"capture", "assay.Capture", "Capture", "A recording of a network's packets."},
	{"host", "assay.Host", "Host", "The test's own side of every network."},
};

static const char stub_head[] =
	"---@meta\n"
	"-- Assay " ASSAY_VERSION
	": the language of test files, for editors (Lua language server).\n"
	"-- Rendered by `assay render stub`; `assay doc` has the same words.\n"
	"\n"
	"---A number of seconds, or text with a unit: \"250ms\", \"90s\", \"5m\".\n"
	"---@alias assay.Duration number|string\n"
	"\n"
	"---Bytes, or text with a unit: \"512M\", \"1G\".\n"
	"---@alias assay.Size integer|string\n"
	"\n"
	"---A share of the whole: 0.05 or \"5%\".\n"
	"---@alias assay.Share number|string\n"
	"\n"
	"---[0] is the whole match, [1]… the groups; named groups by their names.\n"
	"---@alias assay.Captures table<integer|string, string>\n"
	"\n"
	"---What is raised; `tostring` gives the message and the hint.\n"
	"---@class assay.Error\n"
	"---@field kind \"expect\"|\"timeout\"|\"crash\"|\"unsupported\"|\"infra\"|\"usage\"\n"
	"---@field message string\n"
	"---@field hint? string What to try\n"
	"---@field detail? table What was seen: last output, unit status, journal, console\n"
	"\n"
	"---@class assay.TimeoutOptions\n"
	"---@field timeout? assay.Duration Multiplied by the run's scale\n"
	"---@field exact? boolean true: the time-out is not scaled\n"
	"\n"
	"---@class assay.Snapshot\n"
	"---@class assay.Snapshots\n"
	"\n";

/* Comment lines; the stub's own text wraps as the entry does. */
static void put_comment(struct buf *b, const char *text)
{
	while (*text) {
		const char *end = strchrnul(text, '\n');

		buf_printf(b, "---%.*s\n", (int)(end - text), text);
		text = *end ? end + 1 : end;
	}
}

static bool is_field(const struct api_doc *d)
{
	return str_starts(d->stub, "---@field ");
}

/* The fields of a class, with the first line of each text as what they are. */
static void put_fields(struct buf *b, const char *name)
{
	size_t len = strlen(name);

	for (const struct api_doc *d = api_docs; d->name; d++)
		if (is_field(d) && strncmp(d->name, name, len) == 0 && d->name[len] == '.')
			buf_printf(b, "%s %.*s\n", d->stub, (int)strcspn(d->text, "\n"), d->text);
}

static void put_machine_options(struct buf *b)
{
	buf_puts(b, "---@class assay.MachineOptions\n");
	for (const struct option_desc *o = machine_options; o->name; o++)
		buf_printf(b, "---@field %s? %s %s\n", o->name, o->type, o->doc);
	buf_putc(b, '\n');
}

/* "re" of "re.match": a table of functions, unless it is a class. */
static size_t library_len(const struct api_doc *d)
{
	return is_field(d) ? 0 : strcspn(d->name, ".") * !!strchr(d->name, '.');
}

static void put_libraries(struct buf *b)
{
	const char *last = "";

	for (const struct api_doc *d = api_docs; d->name; d++) {
		size_t len = library_len(d);

		if (len == 0 || (strncmp(last, d->name, len) == 0 && last[len] == '.'))
			continue;
		buf_printf(b, "%.*s = {}\n", (int)len, d->name);
		last = d->name;
	}
	buf_puts(b, "\n---What a null within JSON becomes.\njson.null = {}\n\n");
}

/* The entry's words stand before its own block, the last one; classes that it needs come first. */
static void put_entry(struct buf *b, const struct api_doc *d)
{
	const char *own = d->stub, *next;

	while ((next = strstr(own, "\n\n")))
		own = next + 2;
	buf_printf(b, "%.*s", (int)(own - d->stub), d->stub);
	put_comment(b, d->text);
	if (!d->built)
		put_comment(b, "\nThis version does not have it yet: a call raises `unsupported`.");
	buf_printf(b, "%s\n\n", own);
}

char *api_render_stub(void)
{
	struct buf b = {};

	buf_puts(&b, stub_head);
	put_machine_options(&b);
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		buf_printf(&b, "---%s\n---@class %s\n", classes[i].text, classes[i].class);
		put_fields(&b, classes[i].name);
		buf_printf(&b, "local %s = {}\n\n", classes[i].variable);
	}
	put_libraries(&b);
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (!is_field(d))
			put_entry(&b, d);
	return buf_steal(&b, NULL);
}

/* --- the manual page ---------------------------------------------------------------------------
 */

static const char man_head[] =
	"assay-lua(3) \"Assay " ASSAY_VERSION "\" \"Assay\"\n\n"
	"# NAME\n\nassay-lua - the language of Assay's test files\n\n"
	"# DESCRIPTION\n\n"
	"A test file is Lua 5.4. It declares machines, what prepares them, and tests; *assay run* "
	"starts the machines and calls the functions. All that stands below is global. *assay doc* "
	"_NAME_ prints one entry; the editor stub _assay.lua_ has the same words.\n\n"
	"*Durations*: a number is seconds; text carries a unit: *\"250ms\"*, *\"90s\"*, *\"5m\"*. "
	"Sizes: *\"512M\"*, *\"1G\"*. Shares: *0.05* or *\"5%\"*. Numbers are accepted where text "
	"is.\n\n"
	"*Options* are one table, the last argument (before a function's body where there is one). "
	"An unknown key is an error that names the nearest known one. A table is copied at the "
	"call. Relative paths of the host are relative to the test file.\n\n"
	"*Time-outs*: 120 s for waits and commands, 120 s for a boot, 10 minutes for a test, a "
	"setup "
	"or a teardown, unless given. The run's scale (KVM 1, TCG 4) multiplies each, those given "
	"too, but never a sleep, an interval or a delay. { timeout = \"2s\", exact = true } is not "
	"scaled. Messages say *120 s (30 s × 4, TCG)*.\n\n"
	"*Regular expressions* are PCRE2, multi-line on. Captures are a table: \\[0\\] is the "
	"whole "
	"match, \\[1\\] and so on the groups; named groups are there by name as well.\n\n"
	"# ERRORS\n\n"
	"What fails raises a table { kind, message, hint, detail }; *tostring*() gives message and "
	"hint. *detail* has what was seen: the last output, a unit's status, the tails of journal "
	"and console. The kinds, and what becomes of a test that does not catch them:\n\n"
	"*expect*\n\tThe system did not do what the test asked: failed.\n\n"
	"*timeout*\n\tA wait's own time-out ran out: failed.\n\n"
	"*crash*\n\tA machine died (its process ended, a panic, a reset or reboot that nobody "
	"asked "
	"for): failed. Every pending and later call that needs its agent raises this, until it is "
	"started or has booted again. A panic that no *wait\\_for\\_panic* or *expect\\_panic* "
	"consumed fails the test even if no call was pending.\n\n"
	"*usage*\n\tThe test file is wrong: errored.\n\n"
	"*unsupported*\n\tThis backend, host or version cannot do it: skipped.\n\n"
	"*infra*\n\tThe lab's fault, not that of what is tested: errored.\n\n"
	"*pcall* catches these. The test's own deadline, a cancellation and *skip*() cannot be "
	"caught.\n\n"
	"# SANDBOX\n\n"
	"There is no *io*, *os.execute*, *package*, *dofile*, *loadfile*, no bytecode and no "
	"*debug* but for *debug.traceback*. *require* finds .lua files beside the test file and "
	"in _lib/_ above it. The file is evaluated more than once, in several processes, and must "
	"declare the same each time: at its top level the order of *pairs*, *math.random* and "
	"*os.time* are fixed. The top level has 10 seconds; a test that computes for ever ends at "
	"its "
	"deadline. A state has 256 MiB of memory.\n\n";

static const char man_tail[] =
	"# EXAMPLE\n\n"
	"```\n"
	"suite { name = \"nginx\", timeout = \"5m\", tags = { \"web\" } }\n"
	"\n"
	"local server = machine(\"server\", { image = \"debian-13\", packages = { \"nginx\", "
	"\"curl\" } })\n"
	"\n"
	"setup(function()\n"
	"  server:wait_for_unit(\"nginx\")\n"
	"  server:wait_for_open_port(80)\n"
	"end)\n"
	"\n"
	"test(\"serves the welcome page\", function()\n"
	"  assert_contains(server:succeed(\"curl -s http://localhost/\"), \"Welcome to nginx\")\n"
	"end)\n"
	"```\n\n"
	"# SEE ALSO\n\n"
	"*assay*(1), *assay-run*(1), *assay-check*(1), *assay-doc*(1)\n";

/* scdoc's markup, and a backquote that begins or ends what is typed: bold. */
static void put_escaped(struct buf *b, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (s[i] == '`') {
			buf_putc(b, '*');
			continue;
		}
		if (strchr("_*\\<>#~[]", s[i]))
			buf_putc(b, '\\');
		buf_putc(b, s[i] == '\n' ? ' ' : s[i]);
	}
}

/* A paragraph becomes one line, so that no word of it stands where a line's first letter is
 * markup; an example becomes a literal block. */
static void put_paragraphs(struct buf *b, const char *text)
{
	while (*text) {
		const char *end = strstr(text, "\n\n") ?: text + strlen(text);

		if (str_starts(text, "    ")) {
			buf_puts(b, "\t```\n");
			for (const char *line = text; line < end;) {
				size_t len = strcspn(line, "\n");

				buf_printf(b, "\t%.*s\n", (int)(len - 4), line + 4);
				line += len + 1;
			}
			buf_puts(b, "\t```\n\n");
		} else {
			buf_putc(b, '\t');
			put_escaped(b, text, (size_t)(end - text));
			buf_puts(b, "\n\n");
		}
		text = *end ? end + 2 : end;
	}
}

static void put_section(struct buf *b, const char *section)
{
	assert(section);
	buf_puts(b, "# ");
	for (; *section; section++)
		buf_putc(b, *section >= 'a' && *section <= 'z' ? (char)(*section - 'a' + 'A')
							       : *section);
	buf_puts(b, "\n\n");
}

static void put_man_options(struct buf *b)
{
	buf_puts(b, "\tThe options:\n\n");
	for (const struct option_desc *o = machine_options; o->name; o++) {
		buf_puts(b, "\t*");
		put_escaped(b, o->name, strlen(o->name));
		buf_puts(b, "* (");
		put_escaped(b, o->type, strlen(o->type));
		buf_puts(b, ")\n\t\t");
		put_escaped(b, o->doc, strlen(o->doc));
		buf_puts(b, ".\n\n");
	}
}

char *api_render_man(void)
{
	const char *section = "";
	struct buf b = {};

	buf_puts(&b, man_head);
	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (!str_eq(section, d->section))
			put_section(&b, section = d->section);
		buf_putc(&b, '*');
		put_escaped(&b, d->signature, strlen(d->signature));
		buf_puts(&b, "*\n");
		put_paragraphs(&b, d->text);
		if (str_eq(d->name, "machine"))
			put_man_options(&b);
		if (!d->built)
			buf_puts(&b, "\tThis version does not have it yet: a call raises "
				     "*unsupported*.\n\n");
	}
	buf_puts(&b, man_tail);
	return buf_steal(&b, NULL);
}
