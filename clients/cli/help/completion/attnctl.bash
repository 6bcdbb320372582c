# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of attnctl in bash. attnctl itself computes the candidates: clients/cli/help/help.h.

# Bash breaks words at = and : as well; here they are put together again, up to the cursor.
_attnctl() {
    local line=${COMP_LINE:0:COMP_POINT} words=() rest=$COMP_LINE part program word cut i
    COMPREPLY=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:space:]]*}"}
        part=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || part=$rest
        if ((i == 0)) || [[ $rest != "$line" ]]; then
            words+=("$part")
        else
            words[-1]+=$part
        fi
        line=${rest#"$part"}
    done
    [[ $rest != [=:] ]] || rest=
    cut=${words[-1]%"$rest"} # of the last word, what bash holds for a word of its own
    program=${words[0]/#\~/$HOME}
    while IFS=$'\t' read -r word _; do
        if [[ $word == :FILE ]]; then
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$rest")
            compopt -o filenames 2>/dev/null
        else
            COMPREPLY+=("${word#"$cut"}")
        fi
    done < <("$program" __complete "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -F _attnctl attnctl
