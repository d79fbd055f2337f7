@echo off
rem launch.bat          opens the app (a double click does)
rem launch.bat WORDS    the same words as launch.sh: demo, doctor, update, shortcut, train ...
rem Finds a Python; everything else is done by launch.py, as on Linux.
setlocal
set "project=%~dp0"
set "new_enough=import sys; sys.exit(sys.version_info < (3, 10))"
set "python="
for %%P in ("py -3" "python" "python3") do (
    if not defined python %%~P -c "%new_enough%" >nul 2>nul && set "python=%%~P"
)

rem No Python new enough: uv brings one.
set "uv=%project%.zit\uv\uv.exe"
set "from=https://github.com/astral-sh/uv/releases/latest/download/uv-x86_64-pc-windows-msvc.zip"
if not defined python (
    if not exist "%uv%" (
        mkdir "%project%.zit\uv" 2>nul
        curl.exe -LsSf "%from%" -o "%project%.zit\uv.zip" && tar.exe -xf "%project%.zit\uv.zip" -C "%project%.zit\uv"
    )
    set python="%uv%" run --quiet --no-project --python 3.12
)

%python% "%project%launch.py" %*
set "code=%errorlevel%"
if not "%code%"=="0" if "%~1"=="" pause
exit /b %code%
