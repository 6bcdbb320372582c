# SPDX-License-Identifier: MIT
# Completion of attnctl in fish. attnctl itself computes the candidates: clients/cli/help/help.h.

function __attnctl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l before (string match -r -- '^--[^=]*=' "$current")
    for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = :FILE
            for path in (__fish_complete_path (string replace -r -- '^--[^=]*=' '' "$current"))
                echo "$before$path"
            end
        else
            echo $line
        end
    end
end

complete -c attnctl -f -a '(__attnctl_complete)'
