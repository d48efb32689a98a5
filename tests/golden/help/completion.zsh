#compdef assay
# rendered by the build
_assay() {
	local -a commands
	commands=(
		'run:run tests from .lua files and folders (default\: tests/)'
		'list:what would run, with tags and needs'
		'check:find mistakes in test files without starting anything'
		'image:the image store\: build, list, show, rm, import, export'
		'cache:the cache\: list, prune'
		'doctor:what this host can do, each with the reason and the fix'
		'doc:the test language, offline'
		'help:a command'\''s manual page'
	)
	if ((CURRENT == 2)); then
		_describe command commands
		return
	fi
	case $words[2] in
	run) shift words; ((CURRENT--)); _arguments \
		'--filter=[only tests whose "FILE\: NAME" matches (PCRE2)]:value:' \
		'--tag=[only tests with this tag (several\: with any of them)]:value:' \
		'--slow[tests marked slow too]' \
		'--shard=[only part I of N of the tests]:value:' \
		'--shuffle=[in random order; the seed is printed]:value:' \
		'--rerun-failed[only tests that did not pass in the last run]' \
		'--param=[a parameter for the tests\: params.K is "V"]:value:' \
		'--jobs=[tests at once (default\: by free memory and processors)]:value:' \
		'--backend=[backend of machines that name none; with a '\''!'\'' at its end, of all]:value:(qemu fake)' \
		'--image=[image of machines that name none; with a '\''!'\'' at its end, of all]:value:(tiny debian-12 debian-13)' \
		'--isolation=[fork, boot or shared, where a file leaves it unset; with a '\''!'\'' everywhere]:value:(fork boot shared)' \
		'--accel=[auto (default\: probed), kvm or tcg]:value:(auto kvm tcg)' \
		'--timeout-scale=[multiplies every time-out; auto measures, never below KVM 1, TCG 4]:value:(auto)' \
		'--retries=[tries again for failed tests that set none; a pass is then '\''flaky'\'']:value:' \
		'--repeat=[run each test N times]:value:' \
		'--until-fail[run again and again until a test fails]' \
		'--fail-fast[start nothing more after the first failure]' \
		'--out=[folder for the reports (default\: assay-out)]:value:' \
		'--junit=[write JUnit XML here as well]:value:' \
		'--tap[print TAP 14 instead of the usual lines]' \
		'--json=[write results.json here as well]:value:' \
		'--seed=[seed of everything random in a test (default\: 1)]:value:' \
		'--strict[a skip for want of a capability is an error (default where CI is set)]' \
		'--debug-boot[verbose kernel and init on the console]' \
		'--namespaces=[full, nopid or none instead of the best that this host allows]:value:(full nopid none)' \
		'--color=[auto (default\: on a terminal without NO_COLOR), always or never]:value:(auto always never)' \
		'--verbose[print what tests do; twice\: the consoles too]' '*:file:_files';;
	list) shift words; ((CURRENT--)); _arguments \
		'--filter=[only tests whose "FILE\: NAME" matches (PCRE2)]:value:' \
		'--tag=[only tests with this tag (several\: with any of them)]:value:' \
		'--slow[tests marked slow too]' \
		'--shard=[only part I of N of the tests]:value:' \
		'--shuffle=[in random order; the seed is printed]:value:' \
		'--rerun-failed[only tests that did not pass in the last run]' \
		'--param=[a parameter for the tests\: params.K is "V"]:value:' \
		'--json[print JSON]' '*:file:_files';;
	check) shift words; ((CURRENT--)); _arguments \
		'--filter=[only tests whose "FILE\: NAME" matches (PCRE2)]:value:' \
		'--tag=[only tests with this tag (several\: with any of them)]:value:' \
		'--slow[tests marked slow too]' \
		'--shard=[only part I of N of the tests]:value:' \
		'--shuffle=[in random order; the seed is printed]:value:' \
		'--rerun-failed[only tests that did not pass in the last run]' \
		'--param=[a parameter for the tests\: params.K is "V"]:value:' \
		'--json[print JSON]' '*:file:_files';;
	image) shift words; ((CURRENT--));
		if ((CURRENT == 2)); then
			compadd build list show rm import export
			return
		fi
		case $words[2] in
		build) shift words; ((CURRENT--)); _arguments \
			'--package=[install this package on top (several allowed)]:value:' \
			'--run=[run this shell script in the new root]:value:' \
			'--size=[size of a machine'\''s disk (8G)]:value:' \
			'--name=[name of the derived image]:value:' \
			'--rebuild[build anew even if it is there]' '*:file:_files';;
		list) shift words; ((CURRENT--)); _arguments \
			'--json[print JSON]' '*:file:_files';;
		show) shift words; ((CURRENT--)); _arguments \
			'--json[print JSON]' '*:file:_files';;
		rm) shift words; ((CURRENT--)); _arguments '*:file:_files';;
		import) shift words; ((CURRENT--)); _arguments \
			'--initrd=[PATH is a kernel and this its initramfs]:value:' '*:file:_files';;
		export) shift words; ((CURRENT--)); _arguments '*:file:_files';;
		esac;;
	cache) shift words; ((CURRENT--));
		if ((CURRENT == 2)); then
			compadd list prune
			return
		fi
		case $words[2] in
		list) shift words; ((CURRENT--)); _arguments \
			'--json[print JSON]' '*:file:_files';;
		prune) shift words; ((CURRENT--)); _arguments \
			'--max-size=[what may stay (20G)]:value:' '*:file:_files';;
		esac;;
	doctor) shift words; ((CURRENT--)); _arguments \
		'--json[print JSON]' '*:file:_files';;
	doc) shift words; ((CURRENT--)); _arguments \
		'--json[print JSON]' '*:file:_files';;
	help) shift words; ((CURRENT--)); _arguments '*:file:_files';;
	esac
}
_assay "$@"
