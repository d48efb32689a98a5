# bash completion for assay; rendered by the build
_assay() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W "run list check image cache doctor doc help " -- "$cur"))
		return
	fi
	if ((COMP_CWORD > 2)); then
		case $cmd in
		image) cmd+=/${COMP_WORDS[2]};;
		cache) cmd+=/${COMP_WORDS[2]};;
		esac
	fi
	case $cmd:$prev in
		run:--backend) COMPREPLY=($(compgen -W "qemu fake" -- "$cur")); return;;
		run:--image) COMPREPLY=($(compgen -W "tiny debian-12 debian-13" -- "$cur")); return;;
		run:--isolation) COMPREPLY=($(compgen -W "fork boot shared" -- "$cur")); return;;
		run:--accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return;;
		run:--timeout-scale) COMPREPLY=($(compgen -W "auto" -- "$cur")); return;;
		run:--namespaces) COMPREPLY=($(compgen -W "full nopid none" -- "$cur")); return;;
		run:--color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return;;
	esac
	case $cmd in
	run)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --filter --tag --slow --shard --shuffle --rerun-failed --param --jobs --backend --image --isolation --accel --timeout-scale --retries --repeat --until-fail --fail-fast --out --junit --tap --json --seed --strict --debug-boot --namespaces --color --verbose --help" -- "$cur"));;
	list)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --filter --tag --slow --shard --shuffle --rerun-failed --param --json --help" -- "$cur"));;
	check)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --filter --tag --slow --shard --shuffle --rerun-failed --param --json --help" -- "$cur"));;
	image)
		COMPREPLY=($(compgen -W "build list show rm import export --help" -- "$cur"));;
	image/build)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --package --run --size --name --rebuild --help" -- "$cur"));;
	image/list)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --json --help" -- "$cur"));;
	image/show)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --json --help" -- "$cur"));;
	image/rm)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --help" -- "$cur"));;
	image/import)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --initrd --help" -- "$cur"));;
	image/export)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --help" -- "$cur"));;
	cache)
		COMPREPLY=($(compgen -W "list prune --help" -- "$cur"));;
	cache/list)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --json --help" -- "$cur"));;
	cache/prune)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --max-size --help" -- "$cur"));;
	doctor)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --json --help" -- "$cur"));;
	doc)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --json --help" -- "$cur"));;
	help)
		[[ $cur == -* ]] && COMPREPLY=($(compgen -W " --help" -- "$cur"));;
	esac
}
complete -o default -F _assay assay
